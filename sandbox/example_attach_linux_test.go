package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
)

// A command with an ID can be left alone and found again.
func ExampleSandbox_Attach() {
	ctx := context.Background()
	s, err := sandbox.Start(ctx, local.New(local.Config{}), sandbox.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Destroy(ctx)

	build := s.Command("sh", "-c", "echo compiling; echo linking")
	build.ID = "build"
	if err := build.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if err := build.Detach(); err != nil { // it may be over already, which is no error
		fmt.Println(err)
	}

	again := s.Attach("build", int64(len("compiling\n")), 0)
	again.Stdout = os.Stdout
	fmt.Println(again.Run(ctx))
	// Output:
	// linking
	// <nil>
}

// What a command used, and which limit it met, is known when it has ended.
func ExampleCmd_Usage() {
	ctx := context.Background()
	s, err := sandbox.Start(ctx, local.New(local.Config{}), sandbox.Options{Spec: sandbox.Spec{Limits: sandbox.Limits{Disk: 1 << 20}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Destroy(ctx)

	sum := s.Command("wc", "-c")
	sum.Stdin, sum.Stdout, sum.Timeout = strings.NewReader("some bytes"), os.Stdout, time.Minute
	if err := sum.Run(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(sum.Usage().Stdin, "in,", sum.Usage().Stdout, "out")

	var failed *sandbox.ExitError
	if err := s.Command("sh", "-c", "cat /dev/zero > big").Run(ctx); errors.As(err, &failed) {
		fmt.Println("met its limit:", failed.Limit)
	}
	// Output:
	// 10
	// 10 in, 3 out
	// met its limit: Disk
}
