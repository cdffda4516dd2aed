package worker

import "time"

func init() { sweepAfter, takeWithin = 10*time.Minute, 12*time.Minute }
