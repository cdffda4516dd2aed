//go:build unix

package worker_test

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// counted returns what a meter has counted of one name, by the value of its
// attribute.
func counted(t *testing.T, reader *metric.ManualReader, name, by string) map[string]int64 {
	t.Helper()
	got := make(map[string]int64)
	for _, m := range collect(t, reader) {
		if data, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
			for _, p := range data.DataPoints {
				value, _ := p.Attributes.Value(attribute.Key(by))
				got[value.AsString()] += p.Value
			}
		}
	}
	return got
}

func collect(t *testing.T, reader *metric.ManualReader) (all []metricdata.Metrics) {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	for _, s := range rm.ScopeMetrics {
		all = append(all, s.Metrics...)
	}
	return all
}

// What became of each tick is counted, and how late its run was.
func TestScheduleMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	reader := metric.NewManualReader()
	f.schedule(true, workflow.ScheduleOptions{Name: "hourly", Every: hour, CatchUp: 3*hour + 30*time.Minute}) // the first run goes on
	f.rewind("hourly", 20*hour)
	f.start(worker.Config{Workflows: []*workflow.Definition{reportV1}, MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))})
	s := scheduled{f, f.client.Schedule("hourly")}
	st := s.advances()
	var got map[string]int64
	eventually(t, "the ticks are counted", func() bool {
		got = counted(t, reader, "stepward.schedule.ticks", "outcome")
		return got["enqueued"] > 0
	})
	if got["enqueued"] != 1 || got["overlap"] != st.Skipped || got["too_late"] != st.Missed || st.Skipped == 0 || st.Missed == 0 {
		t.Errorf("counted %v, of %+v", got, st)
	}
	for _, m := range collect(t, reader) {
		if data, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "stepward.schedule.lateness" {
			if p := data.DataPoints; len(p) != 1 || p[0].Count != 1 || p[0].Sum < 2*hour.Seconds() || p[0].Sum > 4*hour.Seconds() {
				t.Errorf("lateness %+v", p)
			}
			return
		}
	}
	t.Error("no lateness")
}

// Runs that are deleted are counted.
func TestRetentionMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	reader := metric.NewManualReader()
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}})
	for range 3 {
		run, err := chain.Enqueue(t.Context(), f.client, 0, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ends(t, f.client, run, 1)
	}
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{changingNothing}, Retention: worker.Retention{Completed: time.Nanosecond},
		MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))})
	eventually(t, "three deleted runs are counted", func() bool { return counted(t, reader, "stepward.runs.deleted", "")[""] == 3 })
}
