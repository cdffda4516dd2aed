package sandboxtest

// A Case is one way for a sandbox, or for what comes out of one, to do harm.
// Command sandboxtest/matrix runs the tests of all cases on a backend and writes
// what became of each to docs/sandboxes.md.
type Case struct {
	ID   int // stays the same
	Name string

	// Tests hold the case: "TestX/subtest" is run in the package of every backend,
	// "docker TestX" in that of one, and "internal/egress TestX" in another package.
	Tests []string

	// Instead are the tests for a backend, by its name, that cannot run those.
	Instead map[string][]string

	// NotCovered says why no test holds the case for a backend, by its name.
	NotCovered map[string]string

	// Except says what of the case no test holds: all, if there are no Tests.
	Except string

	// NotApplicable says why there is nothing to hold: for a backend, by its name, or
	// for all, by "".
	NotApplicable map[string]string
}

// A Group is a number of cases.
type Group struct {
	Name  string
	Cases []Case
}

const (
	noSecrets     = "of a tenant's secrets: docs/identity-cases.md has those cases"
	noTools       = "nothing here runs a tool of the host on what came out of a sandbox"
	engineUnpacks = "the engine unpacks images"
	onlyInvoked   = "no files go in or out: who asks is refused"
	noNetwork     = "there is no network, not to what a policy names either: who asks for one is refused"
	noPool        = "there is no pool: a sandbox is nothing before its first command"
	ofAWS         = "the machine is AWS's, with a kernel for this sandbox alone, and no test runs in it"
	noInject      = "the worker adds nothing to what a sandbox sends"
)

func never(why string) map[string]string { return map[string]string{"": why} }

// Cases are all of them. The numbers are those of the list that the project began
// with, and new ones come after the last.
var Cases = []Group{
	{"Files, and what is copied out", []Case{
		{ID: 1, Name: "a link to /etc/passwd in the tree", Tests: []string{"TestBackend/tree/link out of the tree"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 2, Name: "a directory becomes a link between check and use", Tests: []string{"TestBackend/tree/moving", "internal/runner TestPathEscapes"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 3, Name: "a hard link", Tests: []string{"TestBackend/tree/hard link"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 4, Name: "names that lead out: ../x, /x, of another system, NUL", Tests: []string{"sandbox TestUnpackHostile", "internal/runner TestBadPaths"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 5, Name: "a link, then a file through it", Tests: []string{"sandbox TestUnpackHostile"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 6, Name: "a hard link out of the tree", Tests: []string{"sandbox TestUnpackHostile"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 7, Name: "devices, pipes, sockets", Tests: []string{"TestBackend/tree/pipe and socket", "sandbox TestUnpackHostile"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 8, Name: "a sparse file of 10 GiB, many files, a deep tree", Tests: []string{"TestBackend/tree/limits", "sandbox TestUnpackLimits"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 9, Name: "a file changes its size while it is read", Tests: []string{"TestBackend/tree/moving"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 10, Name: "setuid, setgid, extended attributes", Tests: []string{"TestBackend/tree/permissions"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 11, Name: "names with newlines, escapes, bad UTF-8, -rf", Tests: []string{"TestBackend/tree/names"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 12, Name: "names that differ by case only", Tests: []string{"TestBackend/tree/in the way"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 13, Name: "compressed data that the host would unpack", Tests: []string{"TestBackend/tree/compressed"}, NotApplicable: map[string]string{"lambda": onlyInvoked}},
		{ID: 14, Name: "a working directory that is a descriptor of the runner", Tests: []string{"TestLayers/escape"}, Instead: map[string][]string{"lambda": {"TestEscape/directories"}}},
	}},
	{"A workspace that another tool works on", []Case{
		{ID: 15, Name: ".git/hooks", NotApplicable: never(noTools)},
		{ID: 16, Name: ".git/config that names programs", NotApplicable: never(noTools)},
		{ID: 17, Name: ".gitattributes filters", NotApplicable: never(noTools)},
		{ID: 18, Name: "paths of submodules", NotApplicable: never(noTools)},
		{ID: 19, Name: "a bare repository in the tree", NotApplicable: never(noTools)},
		{ID: 20, Name: "files planted for the next step", Tests: []string{"TestLeak/successor"}, Instead: map[string][]string{"lambda": {"TestBackend/apart", "lambda TestOneSandboxOneEnvironment"}}},
		{ID: 21, Name: "a protected file that did not exist before", NotApplicable: never("no file of the host is writable, whether it exists or not: see 67")},
	}},
	{"Processes", []Case{
		{ID: 22, Name: "a daemon outlives its command", Tests: []string{"TestBackend/kill/leftovers", "TestBackend/kill/daemons", "TestEscape/disarmed"}, Instead: map[string][]string{"lambda": {"TestBackend/kill"}}},
		{ID: 23, Name: "SIGTERM is ignored", Tests: []string{"TestBackend/kill/hang", "TestBackend/guest"}, Except: "a process in the kernel that no signal reaches", Instead: map[string][]string{"lambda": {"TestBackend/kill"}}},
		{ID: 24, Name: "a fork bomb", Tests: []string{"TestBackend/processes", "TestBackend/kill/bomb"}, Instead: map[string][]string{"lambda": {"TestBackend/refused/Limits.PIDs"}}},
		{ID: 25, Name: "10,000 zombies", Tests: []string{"TestEscape/zombies"}},
		{ID: 26, Name: "a child keeps the output open after its parent's end", Tests: []string{"TestEscape/held output", "TestBackend/guest"}},
		{ID: 27, Name: "the runner is killed, traced, starved, or meant to run out of memory", Tests: []string{"TestLayers/escape", "TestEscape/settings", "TestBackend/limits", "gvisor TestGVisorCeiling"}, Instead: map[string][]string{"lambda": {"TestEscape/settings", "TestBackend/refused/Limits.Memory", "lambda TestEnvironmentDies"}}},
		{ID: 28, Name: "LD_PRELOAD, PATH, BASH_ENV and such in a command's environment", Tests: []string{"TestEscape/environment"}},
		{ID: 29, Name: "arguments and variables that cannot be: none, 2 MiB, NUL, =", Tests: []string{"TestEscape/odd commands", "TestBackend/command"}, Instead: map[string][]string{"lambda": {"TestEscape/odd commands"}}},
		{ID: 30, Name: "a process id is used again before the kill", Tests: []string{"internal/runner TestLateKill"}},
		{ID: 31, Name: "a timeout at the moment of the end", Tests: []string{"TestEscape/timeout at the end"}},
		{ID: 32, Name: "the worker is killed during a command, another goes on", Tests: []string{"docker TestCommandOutlivesWorker", "gvisor TestGVisorCommandOutlivesWorker", "podman TestPodmanCommandOutlivesWorker", "local TestKilledWorker", "kubernetes TestSandboxOutlivesWorker", "kubernetes TestToolStepSurvivesWorker"}, NotApplicable: map[string]string{"lambda": "what it began is lost, as an error says, and runs to its deadline: nobody can go on with it"}},
		{ID: 33, Name: "the clock jumps", Tests: []string{"TestEscape/system calls", "worker TestClockSteps"}},
	}},
	{"Secrets", []Case{
		{ID: 34, Name: "environment, memory and auxiliary vector of the runner and the worker", Tests: []string{"TestEscape/other processes", "TestLeak/worker", "TestLayers/landlock", "TestLayers/escape"}, Instead: map[string][]string{"lambda": {"TestEscape/other processes", "TestLeak/worker", "lambda TestInside"}}},
		{ID: 35, Name: "what the engine shows of a sandbox", Tests: []string{"TestLeak/worker", "docker TestInspectShowsNothing", "podman TestPodmanInspectShowsNothing", "kubernetes TestPodShowsNothing"}, NotCovered: map[string]string{"lambda": "what AWS shows its account's users"}},
		{ID: 36, Name: "core dumps", Tests: []string{"TestEscape/core"}, Except: "what a program of the host that gets all cores (core_pattern) sees of a command"},
		{ID: 37, Name: "a secret is printed, encoded", NotApplicable: never(noSecrets)},
		{ID: 38, Name: "a secret is split over writes", NotApplicable: never(noSecrets)},
		{ID: 39, Name: "a secret, a character a line", NotApplicable: never(noSecrets)},
		{ID: 40, Name: "a secret of many lines", NotApplicable: never(noSecrets)},
		{ID: 41, Name: "a secret of a few bytes", NotApplicable: never(noSecrets)},
		{ID: 42, Name: "a secret that begins like another", NotApplicable: never(noSecrets)},
		{ID: 43, Name: "a secret in errors, labels, rows, logs", NotApplicable: never(noSecrets)},
		{ID: 44, Name: "a secret left in files", Tests: []string{"TestLeak/successor"}, Instead: map[string][]string{"lambda": {"TestBackend/apart", "lambda TestOneSandboxOneEnvironment"}}},
		{ID: 45, Name: "a snapshot with secrets, for another tenant", NotApplicable: never("there are no snapshots")},
		{ID: 46, Name: "a secret is revoked while it is used", NotApplicable: never(noSecrets)},
	}},
	{"Network", []Case{
		{ID: 47, Name: "host names that another reader reads otherwise", Tests: []string{"TestEgress", "internal/egress TestHost", "internal/egress TestDeny"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 48, Name: "addresses in disguise", Tests: []string{"TestEgress", "internal/egress TestHost", "internal/egress TestPolicy"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 49, Name: "a name that resolves otherwise the second time, or to a private address", Tests: []string{"TestEgress", "internal/egress TestRebind"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 50, Name: "another host inside TLS or HTTP", Tests: []string{"TestEgress", "internal/egress TestServerName", "internal/egress TestHTTPHost", "internal/egress TestPlainHTTP2"}, Except: "what is behind an allowed host, and a hidden server name (ECH)", NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 51, Name: "a relay in the sandbox", Tests: []string{"TestEgress"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 52, Name: "DNS as a tunnel", Tests: []string{"TestEgress", "TestEscape/sockets"}, Except: "DNS over HTTPS at a host that is allowed", Instead: map[string][]string{"lambda": {"TestEscape/sockets"}}},
		{ID: 53, Name: "UDP, ICMP, raw and packet sockets, vsock, netlink", Tests: []string{"TestEscape/sockets"}},
		{ID: 54, Name: "unix sockets of the host, docker.sock", Tests: []string{"TestEscape/unix sockets"}, NotApplicable: map[string]string{"lambda": "there is no host: what is in its file system is the function's"}},
		{ID: 55, Name: "no proxy is used", Tests: []string{"TestEgress", "TestLayers/network", "TestLayers/escape"}, Instead: map[string][]string{"lambda": {"TestEscape/sockets", "TestBackend/apart"}}},
		{ID: 56, Name: "a redirect that carries what was added", NotApplicable: never(noInject)},
		{ID: 57, Name: "smuggled requests", Tests: []string{"internal/egress TestSmuggling", "internal/egress TestHTTPHost"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 58, Name: "an answer that shows what was added", NotApplicable: never(noInject)},
		{ID: 59, Name: "streams without an end", Tests: []string{"internal/egress TestStreams", "TestEgress/kill"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 60, Name: "another sandbox uses this one's proxy", Tests: []string{"TestLeak/neighbours", "TestEgress/token"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 61, Name: "the policy changes under a connection", Tests: []string{"TestEgress/update", "internal/egress TestSetPolicy"}, NotApplicable: map[string]string{"lambda": noNetwork}},
		{ID: 81, Name: "an address changes while connect is looked at", Tests: []string{"TestEgress/transparent", "internal/runner TestFlippedAddress"},
			NotApplicable: map[string]string{"lambda": noNetwork, "kubernetes": "programs that know of no proxy are not redirected there, and who requires it is refused"}},
	}},
	{"Output", []Case{
		{ID: 62, Name: "output without end, and a slow reader", Tests: []string{"TestBackend/kill/slow reader", "TestBackend/handle/middle", "sandbox TestOutputBounded"}, Instead: map[string][]string{"lambda": {"TestBackend/command", "lambda TestStreams", "sandbox TestOutputBounded"}}},
		{ID: 63, Name: "escapes of terminals", Tests: []string{"TestBackend/handle/bytes"}, Except: "how whoever prints it shows it", Instead: map[string][]string{"lambda": {"TestBackend/command"}}},
		{ID: 64, Name: "lines that look like a log's", NotApplicable: never("what a program prints is a value, and no log line; a message of one in a log is quoted by the handler of log/slog")},
		{ID: 65, Name: "invalid UTF-8 and NUL on their way to Postgres", Tests: []string{"TestBackend/handle/bytes", "worker TestLedger"}, Instead: map[string][]string{"lambda": {"TestBackend/command", "worker TestLedger"}}},
	}},
	{"The kernel and the runtime", []Case{
		{ID: 66, Name: "system calls that reach deep, and other tables of them", Tests: []string{"TestEscape/system calls", "TestLayers/seccomp", "TestLayers/escape"}, Instead: map[string][]string{"lambda": {"TestEscape/system calls"}}},
		{ID: 67, Name: "writing to /proc and /sys", Tests: []string{"TestEscape/proc and sys", "TestLayers/escape"}, NotCovered: map[string]string{"lambda": ofAWS}},
		{ID: 68, Name: "reading the kernel's memory, symbols and log", Tests: []string{"TestEscape/kernel", "TestEscape/other processes", "TestLeak/neighbours", "TestLayers/pid"}, NotCovered: map[string]string{"lambda": ofAWS}},
		{ID: 69, Name: "devices", Tests: []string{"TestEscape/devices"}, NotCovered: map[string]string{"lambda": ofAWS}},
		{ID: 70, Name: "typing into a terminal", Tests: []string{"TestEscape/terminal"}, Instead: map[string][]string{"lambda": {"TestBackend/refused/Terminal"}}},
		{ID: 71, Name: "inherited descriptors", Tests: []string{"TestEscape/descriptors", "TestLayers/escape", "local TestNothingIsInherited"}, Instead: map[string][]string{"lambda": {"TestEscape/descriptors"}}},
		{ID: 72, Name: "leaving the cgroup", Tests: []string{"TestEscape/proc and sys"}, NotCovered: map[string]string{"lambda": ofAWS}},
		{ID: 73, Name: "memory, swap, shared memory, files and inodes without limit", Tests: []string{"TestBackend/limits", "local TestInodes", "docker TestInodes", "gvisor TestGVisorCeiling"}, Except: "on kubernetes, gVisor and Podman, the number of files: they count as memory", Instead: map[string][]string{"lambda": {"TestBackend/refused/Limits.Memory"}}},
	}},
	{"Control", []Case{
		{ID: 74, Name: "forged, huge, truncated answers of a runner", Tests: []string{"sandbox FuzzEvents", "sandbox TestForgedAnswers", "internal/tunnel FuzzFrames"}},
		{ID: 75, Name: "a worker that was fenced off", Tests: []string{"TestBackend/connections", "worker TestLateWriteIsRefused"}, Instead: map[string][]string{"lambda": {"worker TestLateWriteIsRefused"}}},
		{ID: 76, Name: "two workers take one warm sandbox", Tests: []string{"TestBackend/claim", "internal/warm TestTake"}, NotApplicable: map[string]string{"lambda": noPool}},
		{ID: 77, Name: "a renewal races the end of a lease", Tests: []string{"worker TestReapWhileEnding"}},
		{ID: 78, Name: "a name is used again", Tests: []string{"TestBackend/connections", "TestLeak/successor"}, Instead: map[string][]string{"lambda": {"TestBackend/apart", "lambda TestOneSandboxOneEnvironment"}}},
		{ID: 79, Name: "a tag moves under the pool", Tests: []string{"docker TestMovedTag", "gvisor TestGVisorMovedTag", "podman TestPodmanMovedTag", "kubernetes TestMovedTag"}, NotApplicable: map[string]string{"lambda": noPool, "local": "there is no pool, and a tree has the name of its image's digest"}},
		{ID: 80, Name: "what is required cannot be had", Tests: []string{"TestBackend/life", "sandbox TestRequireUnmet"}, Instead: map[string][]string{"lambda": {"TestBackend/refused", "sandbox TestRequireUnmet"}}},
	}},
	{"Images", []Case{
		{ID: 82, Name: "layers that write elsewhere, grow without end, or are others than they say", Tests: []string{"local TestImageEscape", "internal/image TestHostileLayers",
			"internal/image TestBombs", "internal/image TestDamagedLayer", "internal/image TestRights"}, NotApplicable: map[string]string{"lambda": "the root file system is the function's", "docker": engineUnpacks, "gvisor": engineUnpacks, "podman": engineUnpacks, "kubernetes": engineUnpacks}},
	}},
}

// Refused begins what a test logs that had to be content with a refusal: the host
// cannot hold a case, and a Spec that demands it is refused.
const Refused = "refused: "
