package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
)

// What this program is when it is started as a client, or as one hop of the
// plain relay.
const (
	argClient = "client-of-egress"
	argRelay  = "relay-beside-egress"
)

// The bars: how long a large body takes, times the relay, which is the inverse of
// 0.8 times its speed; and what a small request may take more than a direct one.
const (
	barBody  = 1.25
	barSmall = 1
)

// body is what one download brings.
const body = 1 << 30

// egressPart serves as client or relay, if this program was started as one.
func egressPart() {
	if len(os.Args) < 3 {
		return
	}
	switch os.Args[1] {
	case argClient:
		exit(egressClient(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	case argRelay:
		exit(hop(os.Args[2]))
	}
}

// egressClient asks a server, through a proxy if one is named, for a body of so
// many bytes, so often, and prints how long each took, in nanoseconds.
func egressClient(proxy, server, size, times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	if proxy == "environment" {
		proxy = strings.TrimPrefix(os.Getenv("HTTPS_PROXY"), "http://")
	}
	for range n {
		begin := time.Now()
		if err := download(proxy, server, size); err != nil {
			return err
		}
		fmt.Println(time.Since(begin).Nanoseconds())
	}
	return nil
}

func download(proxy, server, size string) error {
	to := server
	if proxy != "" {
		to = proxy
	}
	c, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if proxy != "" {
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", server, server)
		r := bufio.NewReaderSize(c, 16)
		line, err := r.ReadString('\n')
		for end := ""; err == nil && end != "\r\n"; {
			end, err = r.ReadString('\n')
		}
		if err != nil || !strings.Contains(line, " 200 ") || r.Buffered() > 0 {
			return fmt.Errorf("the proxy said %q, %w", line, err)
		}
	}
	fmt.Fprintln(c, size)
	want, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	var got int64
	buf := make([]byte, 256<<10)
	for {
		n, err := c.Read(buf)
		got += int64(n)
		if errors.Is(err, io.EOF) && got == want {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes of %d: %w", got, want, err)
		}
	}
}

// serveBodies sends as many bytes as a client asks for.
func serveBodies(ln net.Listener) {
	zeros := make([]byte, 256<<10)
	each(ln, func(c net.Conn) {
		line, err := bufio.NewReader(c).ReadString('\n')
		n, perr := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || perr != nil {
			return
		}
		for n > 0 {
			m, err := c.Write(zeros[:min(n, len(zeros))])
			if err != nil {
				return
			}
			n -= m
		}
	})
}

// hop passes on connections, and prints where it listens.
func hop(to string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	pass(ln, to)
	return nil
}

func pass(ln net.Listener, to string) {
	each(ln, func(c net.Conn) {
		next, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer next.Close()
		go func() { _, _ = io.Copy(next, c) }() // ends with either
		_, _ = io.Copy(c, next)
	})
}

func each(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); serve(c) }()
	}
}

// benchEgress compares what goes through a sandbox's proxy with a relay of two
// hops, the first of which is a process of its own, as the tool runner is.
func benchEgress(ctx context.Context, b *bench) error {
	p, err := b.runner, b.runnerErr
	if err != nil {
		return err
	}
	if p.Path, err = filepath.EvalSymlinks(p.Path); err != nil {
		return err
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	go serveBodies(server)
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = second.Close() }()
	go pass(second, server.Addr().String())
	first := exec.CommandContext(ctx, p.Path, argRelay, second.Addr().String())
	out, err := first.StdoutPipe()
	if err == nil {
		err = first.Start()
	}
	if err != nil {
		return err
	}
	defer func() { first.Process.Kill(); first.Wait() }()
	hops, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return err
	}
	hops = strings.TrimSpace(hops)

	const name = "bench.invalid:9000"
	ctx = egress.WithNetwork(ctx, egress.Network{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
		},
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", server.Addr().String())
		},
	})
	backend := local.New(local.Config{Program: p.Path})
	if _, err := backend.Probe(ctx); err != nil {
		b.report.note("left out: %v", err)
		return nil
	}
	s, err := sandbox.Start(ctx, backend, sandbox.Options{Spec: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{name}}}})
	if err != nil {
		return err
	}
	defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
	data, err := os.ReadFile(p.Path)
	if err == nil {
		err = s.WriteFile(ctx, "client", data, 0o755)
	}
	if err != nil {
		return err
	}
	inside := func(size, times int) ([]time.Duration, error) {
		return took(s.Command("/workspace/client", argClient, "environment", name, strconv.Itoa(size), strconv.Itoa(times)).Output(ctx))
	}
	outside := func(to string, size, times int) ([]time.Duration, error) {
		return took(exec.CommandContext(ctx, p.Path, argClient, "", to, strconv.Itoa(size), strconv.Itoa(times)).Output())
	}
	return b.egress(inside, outside, hops, server.Addr().String())
}

func (b *bench) egress(inside func(size, times int) ([]time.Duration, error), outside func(to string, size, times int) ([]time.Duration, error), hops, server string) error {
	var ratios, ours, theirs []float64
	pairs := b.times(9)
	for i := range pairs + 1 {
		a, err := inside(body, 1)
		p, perr := outside(hops, body, 1)
		if err := errors.Join(err, perr); err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		ratios = append(ratios, a[0].Seconds()/p[0].Seconds())
		ours, theirs = append(ours, body/a[0].Seconds()/(1<<20)), append(theirs, body/p[0].Seconds()/(1<<20))
	}
	for _, all := range [][]float64{ratios, ours, theirs} {
		slices.Sort(all)
	}
	b.report.add("a body of 1 GiB into a sandbox, median", ours[len(ours)/2], "MiB/s")
	b.report.add("the same through a TCP relay of two hops, median", theirs[len(theirs)/2], "MiB/s")
	b.report.bar(fmt.Sprintf("time of the body, times the relay, p50 of %d pairs", pairs), ratios[len(ratios)/2], "x", barBody)
	var small, direct []time.Duration
	for range 5 {
		a, err := inside(100, b.times(100))
		p, perr := outside(server, 100, b.times(100))
		if err := errors.Join(err, perr); err != nil {
			return err
		}
		small, direct = append(small, a...), append(direct, p...)
	}
	b.report.durations("a connection and 100 bytes, from a sandbox", small, 0.5, 0.95)
	b.report.durations("the same directly", direct, 0.5, 0.95)
	b.report.bar("what the sandbox adds, p50", measure.Quantile(small, 0.5)-measure.Quantile(direct, 0.5), "ms", barSmall)
	return nil
}

// took reads what a client printed.
func took(out []byte, err error) ([]time.Duration, error) {
	var exit *exec.ExitError
	var inside *sandbox.ExitError
	switch {
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%w: %s", err, exit.Stderr)
	case errors.As(err, &inside):
		return nil, fmt.Errorf("%w: %s", err, inside.Stderr)
	case err != nil:
		return nil, err
	}
	var all []time.Duration
	for _, line := range bytes.Fields(out) {
		n, err := strconv.ParseInt(string(line), 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, time.Duration(n))
	}
	return all, nil
}
