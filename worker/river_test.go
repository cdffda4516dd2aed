package worker

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/workflow"
)

// Whatever another River client puts into a job, it is a run within the limits of
// EnqueueOptions, or it has an error that names what is wrong.
func FuzzStart(f *testing.F) {
	for _, s := range []string{
		"null", "{}", `{"workflow":"greeting","input":"ada"}`, `{"workflow":"greeting","input":null,"tenant":"a\u0000","key":"k"}`,
		`{"workflow":"greeting","input":1,"priority":-99999999999,"timeout_seconds":1e300}`, `{"workflow":"greeting","input":1,"priority":10,"timeout_seconds":0.5,"project":"web","environment":"prod"}`,
		`{"workflow":"greeting","input":1,"limit":{"key":"a","rate":1}}`, `{"workflow":"greeting","input":1,"limit":{"key":"a","concurrency":1000001,"per_seconds":-1}}`,
		`{"workflow":"greeting","input":1,"limit":{"per_seconds":1}}`, `{"workflow":"a b","input":{"a":[1,2]}}`, `{"workflow":"greeting","input":"far more than fits into twenty bytes"}`,
	} {
		f.Add([]byte(s))
	}
	s := startWorker{w: &worker{Config: Config{MaxBytes: 20}}}
	f.Fuzz(func(t *testing.T, args []byte) {
		var a enqueue.Start
		if json.Unmarshal(args, &a) != nil {
			return // River discards the job
		}
		var o enqueue.Options
		err := s.refuses(a)
		if err == nil {
			o, err = startOptions(a)
		}
		if err != nil {
			option, bad := errors.AsType[*workflow.OptionError](err)
			value, large := errors.AsType[*workflow.ValueError](err)
			named, measured := bad && option.Option != "" && option.Reason != "", large && value.Bytes > value.Limit
			if !named && !measured {
				t.Errorf("%q: %v", args, err)
			}
			return
		}
		const years = 100 * 366 * 24 * time.Hour
		l := o.Limit
		field, _ := enqueue.BadLimit(l)
		if int(o.Priority) != a.Priority || enqueue.BadPriority(a.Priority) != "" || o.Timeout < 0 || o.Timeout > years || field != "" || l.Key != "" && l.Per <= 0 {
			t.Errorf("%q: %+v", args, o)
		}
		if !json.Valid(a.Input) || len(a.Input) > 20 || !enqueue.Name.MatchString(a.Workflow) || enqueue.BadText(a.Tenant+a.Key+a.Project+a.Environment) != "" && len(a.Tenant+a.Key+a.Project+a.Environment) < 200 {
			t.Errorf("%q is accepted: %+v", args, a)
		}
	})
}
