package broker_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/testenv"
)

// other is a user that is nobody's, and not the test's.
const other = 65523

// A worker is kept from the broker's secrets if it can neither read its memory nor its key, put another key in
// its place, nor become someone who can. Each way is one change to a set-up that is L1.
func TestLevelOf(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	for _, c := range []struct {
		name   string
		uid    int
		status string
		change func(dir, engine string) error
		want   identity.Level
		why    string
	}{
		{name: "another user", uid: other, want: identity.L1},
		{name: "that may bind ports", uid: other, status: "CapPrm:\t0000000000000400\n", want: identity.L1},
		{name: "root", uid: 0, want: identity.L1Dev, why: "root"},
		{name: "the broker's user", uid: os.Geteuid(), want: identity.L1Dev},
		{name: "with CAP_DAC_READ_SEARCH", uid: other, status: "CapPrm:\t0000000000000004\n", want: identity.L1Dev, why: "capabilities"},
		{name: "with CAP_NET_ADMIN", uid: other, status: "CapPrm:\t0000000000001000\n", want: identity.L1Dev, why: "capabilities"},
		{name: "with CAP_NET_RAW", uid: other, status: "CapPrm:\t0000000000002000\n", want: identity.L1Dev, why: "capabilities"},
		{name: "with CAP_SYS_PTRACE", uid: other, status: "CapPrm:\t0000000000080000\n", want: identity.L1Dev, why: "capabilities"},
		{name: "the key can be read", uid: other, change: func(dir, _ string) error { return os.Chmod(filepath.Join(dir, "broker.key"), 0o604) }, want: identity.L1Dev, why: "broker.key"},
		{name: "by a group", uid: other, status: "Groups:\t7 65524 \n", change: func(dir, _ string) error {
			return chain(os.Chown(filepath.Join(dir, "broker.key"), 0, 65524), os.Chmod(filepath.Join(dir, "broker.key"), 0o640))
		}, want: identity.L1Dev, why: "broker.key"},
		{name: "by another group", uid: other, status: "Groups:\t7 \n", change: func(dir, _ string) error {
			return chain(os.Chown(filepath.Join(dir, "broker.key"), 0, 65524), os.Chmod(filepath.Join(dir, "broker.key"), 0o640))
		}, want: identity.L1},
		{name: "the key is the worker's", uid: other, change: func(dir, _ string) error { return os.Chown(filepath.Join(dir, "broker.key"), other, 0) }, want: identity.L1Dev, why: "broker.key"},
		{name: "there is no key", uid: other, change: func(dir, _ string) error { return os.Remove(filepath.Join(dir, "broker.key")) }, want: identity.L1Dev, why: "broker.key"},
		{name: "its directory is", uid: other, change: func(dir, _ string) error { return os.Chown(dir, other, 0) }, want: identity.L1Dev, why: "put another"},
		{name: "anyone may write there", uid: other, change: func(dir, _ string) error { return os.Chmod(dir, 0o777) }, want: identity.L1Dev, why: "put another"},
		{name: "and only to what is its own", uid: other, change: func(dir, _ string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, want: identity.L1},
		{name: "or above", uid: other, change: func(dir, _ string) error { return os.Chmod(filepath.Dir(dir), 0o777) }, want: identity.L1Dev, why: "put another"},
		{name: "a container engine", uid: other, status: "Groups:\t65525\n", change: func(_, engine string) error {
			return chain(os.WriteFile(engine, nil, 0o600), os.Chown(engine, 0, 65525), os.Chmod(engine, 0o660))
		}, want: identity.L1Dev, why: "engine.sock"},
		{name: "for others", uid: other, change: func(_, engine string) error { return os.WriteFile(engine, nil, 0o660) }, want: identity.L1},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, engine := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "engine.sock")
			if err := chain(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "broker.key"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			defer broker.SetEngines(engine)()
			if c.change != nil {
				if err := c.change(dir, engine); err != nil {
					t.Fatal(err)
				}
			}
			if got, why := broker.Stands(dir, c.uid, c.status); got != c.want || !strings.Contains(why, c.why) || (why == "") != (got == identity.L1) {
				t.Errorf("got %v: %s; want %v: %s", got, why, c.want, c.why)
			}
		})
	}
}

// Of a process that cannot be seen, as it has ended, or is in another process namespace, nobody knows what it
// may do. The first connection is the control.
func TestLevelUnseen(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	dir, err := os.MkdirTemp("", "broker") // short, and open to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys, door := filepath.Join(dir, "keys"), filepath.Join(dir, "door")
	if err := chain(os.Mkdir(keys, 0o700), os.WriteFile(filepath.Join(keys, "broker.key"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", door)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := chain(os.Chmod(dir, 0o755), os.Chmod(door, 0o777)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe")
	c.Env, c.Stderr = append(os.Environ(), envKnock+"="+door), os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}, Pdeathsig: syscall.SIGKILL}
	end, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, why := broker.StandsAt(keys, conn); got != identity.L1 || why != "" {
		t.Errorf("got %v: %s", got, why)
	}
	if err := chain(end.Close(), c.Wait()); err != nil {
		t.Fatal(err)
	}
	if got, why := broker.StandsAt(keys, conn); got != identity.L1Dev || why != "the worker's process cannot be seen from here" {
		t.Errorf("got %v: %s", got, why)
	}
}

func chain(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A secret that demands a level is issued from that on, and what it was issued at is on record; below, the
// refusal says what is wrong with the set-up. Who connects is who the kernel says.
func TestMinLevel(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	for uid, at := range map[int]identity.Level{0: identity.L1Dev, other: identity.L1} {
		t.Run(at.String(), func(t *testing.T) {
			f := newFixture(t, "DEPLOY_TOKEN")
			f.store.values["x"] = "s3cr3t-canary"
			f.cfg.Peers = []uint32{uint32(uid)}
			link := f.serveTo(uid)
			for i, least := range []identity.Level{identity.L0, identity.L1Dev, identity.L1, identity.L2, identity.L3} {
				f.exec("DELETE FROM stepward.profile")
				f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x", MinLevel: least})
				_, err := get(t.Context(), link, f.attempt(1, 2+i, "publish#2"))
				if least <= at {
					if err != nil {
						t.Errorf("%v: %v", least, err)
					}
					continue
				}
				if text := fmt.Sprint(err); reason(err) != "level" || !strings.Contains(text, "DEPLOY_TOKEN demands level "+least.String()+", and this set-up is "+at.String()+": ") {
					t.Errorf("%v: got %v", least, err)
				}
			}
			if n, m := f.issued(), f.count("SELECT count(*)::int FROM stepward.issue WHERE level = $1", at.String()); n != m || n == 0 {
				t.Errorf("%d envelopes are on record, and %d at %v", n, m, at)
			}
			if n := f.events("envelope.refused"); n != int(identity.L3-at) {
				t.Errorf("%d refusals are on record", n)
			}
		})
	}
}

// serveTo starts a broker, and returns the way to it of a process of a user.
func (f *fixture) serveTo(uid int) *brokerlink.Link {
	f.t.Helper()
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { os.RemoveAll(dir) })
	door, way := filepath.Join(dir, "broker"), filepath.Join(dir, "worker")
	ln, err := net.Listen("unix", door)
	if err != nil {
		f.t.Fatal(err)
	}
	f.serveOn(ln, "unix:///nowhere")
	near, err := net.Listen("unix", way)
	if err != nil {
		f.t.Fatal(err)
	}
	defer near.Close()
	near.(*net.UnixListener).SetUnlinkOnClose(false)
	file, err := near.(*net.UnixListener).File()
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	if err := chain(os.Chmod(dir, 0o755), os.Chmod(door, 0o777)); err != nil {
		f.t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe")
	c.Env, c.ExtraFiles, c.Stderr = append(os.Environ(), envDoor+"="+door), []*os.File{file}, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	link, err := brokerlink.New("unix://"+way, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		link.Close()
		c.Process.Kill()
		c.Wait()
	})
	return link
}
