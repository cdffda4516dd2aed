//go:build !unix

package brokerlink

import (
	"context"
	"errors"
	"net"
)

type child struct{ conn net.Conn }

func startChild(context.Context, Setup, func(string)) (*child, error) {
	return nil, errors.New("a broker that is a child of its worker needs Unix: name another in worker.Config.Broker")
}

func (*child) over() bool { return true }

func (*child) pid() int { return 0 }

func (*child) close() {}

// Inherited is for Unix.
func Inherited() (net.Conn, error) { return nil, errors.ErrUnsupported }

// Serving is for Unix.
func Serving(net.Conn) error { return errors.ErrUnsupported }

// Waiting is for Unix.
func Waiting(net.Conn) error { return errors.ErrUnsupported }
