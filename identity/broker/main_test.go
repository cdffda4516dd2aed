package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/brokerlink"
)

// Started as a broker, the test's program is one: with a store that has all, and what the
// environment says.
const (
	envDir   = "BROKER_TEST_DIR"   // of its key
	envPoint = "BROKER_TEST_POINT" // where it ends, once
	envSays  = "BROKER_TEST_SAYS"  // instead, what it does not start with
	envEnds  = "BROKER_TEST_ENDS"  // or, if it is set, ends without a word
	envPanic = "BROKER_TEST_PANIC" // or what it panics with
	envDoor  = "BROKER_TEST_DOOR"  // instead, it passes connections on to this broker
	envKnock = "BROKER_TEST_KNOCK" // instead, it connects there, and stays until its input ends
)

func TestMain(m *testing.M) {
	if brokerlink.Started() {
		if at := os.Getenv(envPoint); at != "" {
			broker.SetPoint(func(name string) {
				mark := filepath.Join(os.Getenv(envDir), "ended")
				if _, err := os.Stat(mark); name != at || err == nil {
					return
				}
				if os.WriteFile(mark, nil, 0o600) == nil {
					os.Exit(3)
				}
			})
		}
		err := broker.Child(context.Background(), func(context.Context) (broker.Config, error) {
			if os.Getenv(envEnds) != "" {
				os.Exit(7)
			}
			if text := os.Getenv(envPanic); text != "" {
				panic(text)
			}
			if text := os.Getenv(envSays); text != "" {
				return broker.Config{}, errors.New(text)
			}
			return broker.Config{Dir: os.Getenv(envDir), Stores: map[string]broker.Store{"mem": everything{}}}, nil
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if door := os.Getenv(envDoor); door != "" {
		fmt.Fprintln(os.Stderr, relay(door))
		os.Exit(1)
	}
	if door := os.Getenv(envKnock); door != "" {
		c, err := net.Dial("unix", door)
		if err == nil {
			_, err = io.Copy(io.Discard, os.Stdin)
			c.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	brokerlink.CanServe()
	code := m.Run()
	if err := databases.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// everything is a store that has a value under each path.
type everything struct{}

func (everything) Get(_ context.Context, r broker.Request) (broker.Value, error) {
	return broker.Value{Bytes: []byte("canary of " + r.Path), Version: "1"}, nil
}

// relay passes connections on to the broker, as the user that it runs as.
func relay(door string) error {
	ln, err := net.FileListener(os.NewFile(3, "door"))
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		d, err := net.Dial("unix", door)
		if err != nil {
			return err
		}
		go io.Copy(d, c)
		go io.Copy(c, d)
	}
}
