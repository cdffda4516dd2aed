// Package sandbox runs commands and step functions where they can do no harm.
//
// [Start] makes a [Sandbox] on a [Backend]: package sandbox/local makes one of
// Linux namespaces and needs nothing else, package sandbox/docker makes one of a
// container. The modules sandbox/kubernetes and sandbox/lambda make one of a pod,
// and of invocations, which have commands and guest steps alone: see [Invoker]. A
// [Spec] says what the sandbox requires. Its zero value is the strictest there is,
// and what a backend cannot enforce it refuses with an [UnsupportedError]: a sandbox
// is never weaker than its Spec. What was enforced is in [Sandbox.Enforcement]; what
// has to be is in [Spec].Require.
//
//	s, err := sandbox.Start(ctx, local.New(local.Config{}), sandbox.Options{})
//	if err != nil {
//		return err
//	}
//	defer s.Destroy(context.WithoutCancel(ctx))
//	out, err := s.Command("wc", "-w").Output(ctx)
//
// A [Cmd] reads like the one of os/exec, and [Sandbox.FS] is an io/fs.FS. Most
// programs need neither: a step of mode Sandboxed runs its function here, and a
// tool step is handed a Sandbox to run commands in.
//
// # What it promises
//
// What runs in a sandbox reaches no network but what its Spec names, sees no process and no file of the
// host but read-only system directories (or those of its image), knows nothing of
// the worker's environment, holds no capability and cannot get one. It writes to
// [Workspace] and /tmp, and nowhere else. Two commands of one sandbox cannot read
// each other's environment or memory where the kernel has Landlock. Package
// sandboxtest has a probe for each layer, which only that layer stops.
//
// A command ends with all that it started: when [Cmd.Wait] returns, no process of
// it is left, though it made itself a daemon, ignores signals or is a fork bomb.
// The same holds when its context ends, and [Sandbox.Destroy] ends everything.
//
// A broken connection to the sandbox is made again, and output goes on at the byte
// where it stopped. If that cannot be, the error is [ErrLost]: whether what ran
// has finished is unknown then. A command is never run twice.
//
// A command may print without end: what its reader has not taken holds it up
// instead of filling memory, or with [Cmd].MaxOutput is left out of the middle, and
// counted. Of a guest step's output callers keep the end, see [Tail]. Output is
// bytes, as they came: who shows it must make control characters harmless.
//
// # Files
//
// [Sandbox.FS], [Sandbox.ReadFile] and [Sandbox.WriteFile] are for single files,
// [Sandbox.Upload] and [Sandbox.Download] stream trees. What a sandbox holds may have
// been made to harm who takes it: Download makes plain files, or fails.
//
// # Commands that go on
//
// [Cmd.Start] returns while a command runs. It can be sent a signal, and have a
// terminal whose size changes. A command with an ID can be left with [Cmd.Detach],
// or by a worker that dies, and found again by [Sandbox.Attach], at the byte where
// its reader stopped. To start it once more under its ID starts nothing: it is the
// same command. What it used is in [Cmd.Usage] at its end. Another process opens the
// sandbox by its [Handle], see [Open]. A guest step that was given an ID is found again
// in the same way. With [Options].Continue all commands without Stdin are, by a process that
// issues the same ones.
//
// # Network
//
// A [NetworkPolicy] is an allow-list, empty by default. What it allows goes through
// the worker: the sandbox itself has a loopback interface and nothing else. Programs
// are told of a proxy, and where [Enforcement] says Transparent those that know of
// none are connected, too; elsewhere they reach nothing. The worker
// resolves names, and only those that are allowed; it refuses addresses that lead
// into its own network; it compares what TLS and HTTP ask for with what the
// program connected to. What was decided is in [Sandbox.Egress], and
// [Sandbox.SetNetwork] changes the policy of a live sandbox.
//
// An allow-list says which endpoints, and not which accounts: who can write to an
// allowed host, with whatever key, can take data out by it. Inside TLS nothing is
// seen. So a host that shares its servers with others, as in a content delivery
// network, may be a way to these, by a Host header other than the name in TLS
// (domain fronting) or by a name that is itself encrypted (ECH). A hello that has
// the allowed name on its outside passes.
//
// # Secrets
//
// Secrets come into a sandbox in an envelope that its worker cannot open: see
// [Secrets]. A guest step finds those of its function with os.Getenv, a command those
// that [Cmd].Secrets names and that its program may have, and no process finds those of
// another. None is in the environment of the sandbox itself, in an argument, or in a
// file that has a name. What uses them goes on for as long as the broker renews them:
// after 15 s without a word, all that runs is stopped and no connection leaves, until
// there is one, and after 90 s the sandbox ends, whether a worker is there or not.
//
// What leaves a sandbox is without its secrets: output, results, errors and names have
// [REDACTED:NAME] in their place, however they are encoded, and a file or a tree with one
// in it is not given out: [io/fs.ErrPermission]. This is a guard against accidents, and
// none against a program that means to tell.
//
// # Errors
//
// A command that cannot be started is a [CommandError], one that ends without
// success an [ExitError], which also says when a limit of the sandbox was met; a
// function's own error, or its panic, is a [GuestError].
// A backend that cannot work on a host says why and what to do: [UnavailableError].
// An image is to blame for an [ImageError], a Spec that no backend could honour for a
// [SpecError].
//
// # Limits
//
// All sandboxes share the kernel of the host: who breaks that is out. Names and
// arguments of processes are visible to every command of a sandbox, so a secret
// must not be an argument. There is no disk that outlives a sandbox.
//
// # Where to go next
//
// internal/runner is the program that serves inside, internal/rpc its protocol.
// A new backend implements [Backend], or [Invoker], and passes package sandboxtest.
package sandbox
