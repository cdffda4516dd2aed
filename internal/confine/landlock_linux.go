package confine

import (
	"errors"
	"fmt"
	"os"
	"sync"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

const (
	fsRead  = ll.AccessFSExecute | ll.AccessFSReadFile | ll.AccessFSReadDir
	fsWrite = ll.AccessFSWriteFile | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile | ll.AccessFSMakeChar |
		ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo |
		ll.AccessFSMakeBlock | ll.AccessFSMakeSym
)

// Landlock returns the version of the kernel's Landlock, 0 without.
var Landlock = sync.OnceValue(func() int {
	v, err := ll.LandlockGetABIVersion()
	if err != nil || v < 0 {
		return 0
	}
	return v
})

// domain says what a domain handles, and which rights a file can have, as far as
// version abi knows them. Networks are the namespace's business.
func domain(abi int) (attr ll.RulesetAttr, file uint64) {
	attr.HandledAccessFS = fsRead | fsWrite
	file = ll.AccessFSExecute | ll.AccessFSReadFile | ll.AccessFSWriteFile
	if abi >= 2 {
		attr.HandledAccessFS |= ll.AccessFSRefer
	}
	if abi >= 3 {
		attr.HandledAccessFS |= ll.AccessFSTruncate
		file |= ll.AccessFSTruncate
	}
	if abi >= 5 {
		attr.HandledAccessFS |= ll.AccessFSIoctlDev
		file |= ll.AccessFSIoctlDev
	}
	if abi >= 6 {
		attr.Scoped = ll.ScopeAbstractUnixSocket | ll.ScopeSignal
	}
	return attr, file
}

// Ruleset describes the domain of an exec: it reads any file that it could read
// before, but of devices only some, since another exec's terminal is one, and of
// /sys what a program may want to know about its machine: other files there have
// addresses of the kernel. It writes to /workspace, /tmp and some devices, and
// neither traces nor signals a process outside of the domain. It is the same for all execs, each of
// which gets a domain of its own by it.
var Ruleset = sync.OnceValues(func() (fd int, err error) {
	attr, file := domain(Landlock())
	if fd, err = ll.LandlockCreateRuleset(&attr, 0); err != nil {
		return -1, fmt.Errorf("landlock: %w", err)
	}
	type rule struct {
		path   string
		access uint64
	}
	rules := []rule{{"/", ll.AccessFSReadDir}}
	top, err := os.ReadDir("/")
	if err != nil {
		return -1, fmt.Errorf("landlock: %w", err)
	}
	for _, e := range top { // the root is read-only: there will be no other
		switch {
		case e.Name() == "dev", e.Name() == "sys":
		case e.IsDir():
			rules = append(rules, rule{"/" + e.Name(), fsRead})
		case e.Type().IsRegular():
			rules = append(rules, rule{"/" + e.Name(), fsRead & file})
		}
	}
	for _, r := range append(rules, []rule{
		{"/sys/devices/system", fsRead}, {"/sys/fs/cgroup", fsRead}, {"/sys/kernel/mm", fsRead},
		{Self, ll.AccessFSExecute | ll.AccessFSReadFile}, // on a mount of its own
		{Workspace, attr.HandledAccessFS},
		{"/tmp", attr.HandledAccessFS},
		{"/dev/null", file}, {"/dev/zero", file}, {"/dev/full", file},
		{"/dev/random", file}, {"/dev/urandom", file}, {"/dev/tty", file},
	}...) {
		at, err := unix.Open(r.path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		} else if err != nil {
			return -1, fmt.Errorf("landlock: %s: %w", r.path, err)
		}
		err = ll.LandlockAddPathBeneathRule(fd, &ll.PathBeneathAttr{AllowedAccess: r.access, ParentFd: at}, 0)
		unix.Close(at)
		if err != nil {
			return -1, fmt.Errorf("landlock: rule for %s: %w", r.path, err)
		}
	}
	return fd, nil
})

// EnterDomain puts the calling thread, and what it starts, into a new domain.
//
// go-landlock itself restricts all threads of a process. Here the others must
// stay outside, hence its system calls.
func EnterDomain() error {
	fd, err := Ruleset()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	if err := ll.LandlockRestrictSelf(fd, 0); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}
