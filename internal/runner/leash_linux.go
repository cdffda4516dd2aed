package runner

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/envelope"
)

// A leash is the time for which secrets may be used without a new word of the broker.
// It is measured by a clock that goes on while the machine sleeps, from when the
// sandbox asked: a worker that holds an answer back gains nothing by it.
//
// When that of any envelope is over, everything in the sandbox is frozen, for a renewal
// to thaw: a worker that died takes no work with it. When the rest is over too, or the
// broker has revoked the envelope, the sandbox ends.
type leash struct {
	freeze func(bool)
	end    func()

	mu        sync.Mutex
	held      []*holding
	frozen    bool
	revoked   bool
	challenge [32]byte
	asked     time.Duration // when the challenge was made
	timer     *os.File      // nil until there is a holding
}

// graceRevoked is how long a worker has to hear that its renewal has ended everything.
const graceRevoked = time.Second

// hold puts a holding on the leash.
func (l *leash) hold(h *holding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, h)
	if l.timer == nil {
		l.watch()
	}
	l.look()
}

// letGo takes one off.
func (l *leash) letGo(h *holding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, o := range l.held {
		if o == h {
			l.held = append(l.held[:i], l.held[i+1:]...)
			break
		}
	}
	l.look()
}

// ask returns a new challenge. Only the newest can be answered.
func (l *leash) ask() [32]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = boottime.Now()
	rand.Read(l.challenge[:])
	return l.challenge
}

// renew takes a renewal.
func (l *leash) renew(raw []byte) (revoked bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var h *holding
	r, err := envelope.ReadRenewal(raw, func(id envelope.ID) []byte {
		for _, h = range l.held {
			if h.Head.ID == id {
				return h.RenewalKey
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return false, err
	case r.State == envelope.Revoked:
		l.revoked = true
		h.since = boottime.Now() + graceRevoked - h.Head.Terms.Kill
	case l.asked == 0 || subtle.ConstantTimeCompare(r.Challenge[:], l.challenge[:]) != 1:
		return false, errors.New("renewal: it answers another challenge")
	default:
		h.since = max(h.since, l.asked) // the same again adds nothing
	}
	l.look()
	return l.revoked, nil
}

// lapsed reports whether nothing may be started.
func (l *leash) lapsed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look() // the timer may be late
	return l.frozen
}

// look does what is due, and sets the timer to what is due next. l.mu is held.
func (l *leash) look() {
	now := boottime.Now()
	next := time.Duration(1<<63 - 1)
	frozen := l.revoked
	for _, h := range l.held {
		freeze, kill := h.since+h.Head.Terms.Freeze, h.since+h.Head.Terms.Kill
		for _, i := range h.Items {
			if i.Strict {
				kill = min(kill, freeze)
			}
		}
		switch {
		case now >= kill:
			l.end()
			frozen = true
		case now >= freeze:
			frozen = true
			next = min(next, kill)
		default:
			next = min(next, freeze)
		}
	}
	if frozen != l.frozen {
		l.frozen = frozen
		l.freeze(frozen)
	}
	if l.timer == nil {
		return
	}
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(next))}
	if len(l.held) == 0 {
		at = unix.ItimerSpec{}
	}
	if raw, err := l.timer.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &at, nil) })
	}
}

// watch has look called in time. Without such a timer it is called often.
func (l *leash) watch() {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		go func() {
			for range time.Tick(100 * time.Millisecond) {
				l.lapsed()
			}
		}()
		return
	}
	l.timer = os.NewFile(uintptr(fd), "timer")
	go func() {
		var n [8]byte
		for {
			if _, err := l.timer.Read(n[:]); err != nil {
				l.end() // it cannot be
				return
			}
			l.lapsed()
		}
	}()
}
