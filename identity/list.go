package identity

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"
)

// A ProfileFilter selects profiles.
type ProfileFilter struct {
	Tenant string // whose; empty: those of the deployment
	After  string // continues a listing: only names that come after this one
	Limit  int    // how many at most; 0 is all
}

// A RevocationFilter selects revocations.
type RevocationFilter struct {
	Tenant string // whose; empty: those of the deployment
	After  int64  // continues a listing: only those with a higher Epoch
	Limit  int    // how many at most; 0 is all
}

// List yields profiles by name, or the error that it ends with. It reads a hundred at a time, and holds no
// connection meanwhile: each page is of another moment.
func (p *Profiles) List(ctx context.Context, f ProfileFilter) iter.Seq2[Profile, error] {
	return pages(ctx, p, "profiles", p.q.ProfileList, f.Tenant, f.After, f.Limit, scanProfile, func(pr Profile) string { return pr.Name })
}

// Revocations yields what was revoked, and the versions that became current, oldest first, or the error that
// it ends with. It reads as [Profiles.List] does.
func (p *Profiles) Revocations(ctx context.Context, f RevocationFilter) iter.Seq2[Revocation, error] {
	return pages(ctx, p, "revocations", p.q.RevocationList, f.Tenant, f.After, f.Limit, scanRevocation, func(r Revocation) int64 { return r.Epoch })
}

const pageSize = 100

// pages yields the rows of a statement that takes a tenant, what comes before, and how many.
func pages[T any, K string | int64](ctx context.Context, p *Profiles, what, sql, tenant string, after K, limit int, scan pgx.RowToFunc[T], key func(T) K) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if limit < 0 {
			yield(none, &ProfileError{Reason: fmt.Sprintf("list %s: a limit of %d", what, limit)})
			return
		}
		for last, left := after, limit; ; {
			n := pageSize
			if limit > 0 {
				n = min(n, left)
			}
			var page []T
			rows, err := p.pool.Query(ctx, sql, tenant, last, n)
			if err == nil {
				page, err = pgx.CollectRows(rows, scan)
			}
			if err != nil {
				yield(none, p.failed(ctx, "list "+what, err))
				return
			}
			for _, v := range page {
				if !yield(v, nil) {
					return
				}
				last = key(v)
			}
			if left -= len(page); len(page) < n || left == 0 {
				return
			}
		}
	}
}
