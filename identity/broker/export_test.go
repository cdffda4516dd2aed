package broker

import "context"

// LeaseMargin is for TestUntil.
const LeaseMargin = leaseMargin

// SetPoint has f called at each point of an issue.
func SetPoint(f func(string)) { point = f }

// Sweep looks once for what nobody has closed.
func Sweep(ctx context.Context, cfg Config) error {
	b, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	return b.sweepOnce(ctx)
}
