// Package lambda makes sandboxes of invocations of a function of AWS Lambda.
//
// A sandbox of it runs guest steps and commands, each by one invocation, in a
// virtual machine of AWS. It is for steps that come in numbers no host of yours
// could hold, and that need nothing of each other. Package function, beside this
// one, is what is deployed.
//
// # What a sandbox is
//
// The execution environments of one tenant ID: the sandbox's own. AWS gives each a
// virtual machine (Firecracker) and does not use it for another tenant ID, which is
// what its tenant isolation mode is; a function without that mode is refused. In
// there the tool runner does what it does elsewhere: no new privileges, no
// capability, the filter of system calls, a Landlock domain where the kernel has
// Landlock, an environment of its own, all descendants ended with their command.
//
// An exec has no network: the only sockets that it can make are unix sockets. So it
// reaches neither the Internet nor the function's VPC, and not the API by which the
// function takes invocations, with which it could answer for others.
//
// # Between invocations
//
// Each command begins with an empty /tmp, in /tmp/workspace; there is no /workspace.
// It finds nothing of an earlier one, though AWS keeps /tmp and the process for
// invocations to come: the function empties the one, and refuses, in the other, any
// sandbox but the first. How long AWS keeps an environment without work is its own
// affair. An account may have 2500 of them, with tenants, for 1000 concurrent
// invocations, and every sandbox takes at least one.
//
// # What it cannot do
//
// Nothing leads to an invocation that goes on. So there are no files from outside,
// no terminals, signals, background commands or attaching: these fail with an error
// that is [errors.ErrUnsupported]. A tool step that needs them is for another
// backend. A guest step's heartbeats and values of progress arrive as they come; its
// entries of streams are refused, since the step waits for their being durable.
//
// A deadline, of a context or [sandbox.Cmd].Timeout, is sent along and kept by the
// runner. A cancelation is not: the call returns with [sandbox.ErrLost], and what
// was invoked runs, and is paid for, to its end or its deadline. Destroy does not
// end it, nor does the death of the worker. Give steps a timeout.
//
// [sandbox.Capabilities] says so, and Create refuses, by name, a Spec that asks for
// an image, for a network, or for a limit of memory, CPU, processes, disk or files:
// these are settings of the function. What it has too little memory for ends the
// environment, and is lost.
//
// # Limits
//
// The payload of an invocation is 6 MB as JSON, which is 4.5 MB of input; a response
// is 200 MB of output, or 6 MB with Config.Buffered. What is more is a [LimitError]. An invocation takes 15 minutes
// at most, or what the function is set to: 2 seconds less is Spec.Limits.Time where
// it names none, and the most that it can name. A command that takes longer is a
// [sandbox.ExitError] of the limit "Time".
//
// The worker's client needs the right lambda:InvokeFunction, by the function's name.
// The SDK tries again only what AWS has refused for want of room: anything else may
// have run.
package lambda
