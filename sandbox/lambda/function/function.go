// Package function is the side of package lambda that is deployed to AWS Lambda.
// It is apart, so that a function does not link the AWS SDK.
//
//	func main() {
//		bootstrap.Init(site.Definition) // guest steps
//		function.Serve()
//		// a worker's own program goes on here
//	}
//
// Built with CGO_ENABLED=0 and named bootstrap, the program is a function of a
// provided runtime (provided.al2023), or the entry point of a container image; a
// worker's own program will do. The function needs:
//
//   - tenant isolation (TenancyConfig PER_TENANT), which is how each sandbox has
//     execution environments that no other one gets. Without it nothing is run.
//   - a timeout: 15 minutes is the most there is. An exec has 2 seconds less.
//   - an execution role that allows nothing, or to write logs. Its credentials are
//     in the environment of the function's process, which shows them to nobody; a
//     break out of the process must not be worth it.
//
// # What an execution environment keeps
//
// AWS keeps environments, with /tmp and the process, for later invocations of the
// same tenant ID, which is the sandbox. Before each exec this process empties /tmp,
// and after it nothing of the exec runs any more. A process that has served one
// sandbox refuses any other one, and ends, whatever it is told by whom.
package function
