package main

// A Case is one way to get at a secret, or for what keeps it to fail.
type Case struct {
	ID   int // stays the same
	Name string

	// Tests hold the case, as "package TestName": a subtest is TestName/its name. Those of
	// sandboxtest are named as the local backend runs them; the others run them too.
	Tests []string

	// Except says what of the case no test holds: all of it, if there are no Tests.
	Except string
}

// A Group is a number of cases.
type Group struct {
	Name  string
	Cases []Case
}

const (
	noJIT = "nothing can be asked for while a step works yet: it has what it lists from its begin"
	noL2  = "below level L2 a worker that does this has the secrets of its own runs. The record of an attempt says its level, and a key that demands L2 is refused there: L2 is for sandboxes on Kubernetes, and of Docker that the broker owns"
)

// Cases are all of them. The numbers are those of the list that the project began with.
var Cases = []Group{
	{"What a worker sees", []Case{
		{ID: 1, Name: "memory, goroutines, database, WAL and logs of a worker are searched while a step has secrets", Tests: []string{"internal/canary TestCanary", "internal/canary TestSearch"}},
		{ID: 2, Name: "a worker's or a client's package is linked with a store, or with what opens envelopes",
			Tests: []string{"internal/importcheck TestWorkerOpensNoSecret", "internal/importcheck TestClientOpensNoSecret", "internal/importcheck TestFindsViolations"}},
		{ID: 22, Name: "a secret that is missing is found in the worker's own environment", Tests: []string{"worker/bootstrap TestIdentity", "worker/bootstrap TestIdentityMissing"}},
		{ID: 26, Name: "a command without secrets prints its environment, and reads other processes", Tests: []string{"sandbox/local TestBackend/secrets/apart", "sandbox/local TestBackend/secrets/command", "sandbox/local TestEscape/other processes"}},
		{ID: 27, Name: "what an engine shows of a sandbox, and would keep of it in an image", Tests: []string{"sandbox/docker TestBackend/secrets/engine", "sandbox/kubernetes TestBackend/secrets/engine", "internal/canary TestCanaryDocker", "sandbox/kubernetes TestCanary"}},
		{ID: 56, Name: "audit, spans, metrics, errors and panics are searched", Tests: []string{"internal/canary TestCanary"}},
	}},
	{"Envelopes", []Case{
		{ID: 3, Name: "a worker sends the broker a key of its own", Tests: []string{"identity/broker TestMinLevel", "identity/broker TestLevelOf", "worker/bootstrap TestSeparate", "sandbox/kubernetes TestAttested", "sandbox/kubernetes TestProof", "sandbox/kubernetes TestNotAttested", "identity/broker TestAttest", "identity/broker TestProofAgain", "internal/envelope TestProof", "sandbox/docker TestWitness", "worker TestLaunched"}, Except: noL2},
		{ID: 4, Name: "names, order or recipients of what is sealed are altered", Tests: []string{"internal/envelope TestSealsHoldByThemselves", "internal/envelope TestEveryByte"}},
		{ID: 5, Name: "an envelope is given to another run, attempt or sandbox", Tests: []string{"internal/envelope TestFactsBind", "internal/envelope TestAnotherKey", "sandbox/local TestBackend/secrets/envelope", "sandbox/local TestBackend/secrets/call"}},
		{ID: 6, Name: "an envelope is delivered twice", Tests: []string{"sandbox/local TestBackend/secrets/envelope", "internal/envelope TestReplayIsOurs"}},
		{ID: 7, Name: "items are left out, or are there twice", Tests: []string{"internal/envelope TestSealsHoldByThemselves/one less", "internal/envelope TestSealsHoldByThemselves/twice"}},
		{ID: 8, Name: "a worker seals an envelope itself", Tests: []string{"internal/envelope TestForged", "sandbox/local TestBackend/secrets/envelope"}},
		{ID: 9, Name: "a key from before the claim, or from a snapshot that is started twice", Tests: []string{"sandbox/local TestBackend/secrets/envelope"}, Except: "snapshots of a machine: no backend has any"},
		{ID: 10, Name: "a worker that lost its run asks", Tests: []string{"identity/broker TestFenced"}},
		{ID: 60, Name: "tool runner and broker are of different releases", Tests: []string{"internal/envelope TestVersions", "internal/envelope TestHelloRefused"}},
	}},
	{"The broker", []Case{
		{ID: 11, Name: "the broker dies on its way", Tests: []string{"identity/broker TestKilledWhileIssuing", "identity/broker TestChild", "identity/broker TestSweep"}},
		{ID: 12, Name: "the event of an envelope cannot be written", Tests: []string{"identity/broker TestNoAuditNoSecret"}},
		{ID: 57, Name: "a store's error has a value or a credential in it", Tests: []string{"identity/broker TestStoreSaysTooMuch", "identity/vault TestTroubledVault", "identity/vault TestLogin", "identity/sops TestDamage", "identity/broker TestRefusals"}},
		{ID: 58, Name: "development without a Vault and without a network", Tests: []string{"examples/identity TestOutput", "worker/bootstrap TestIdentity", "identity/broker TestRefusals/too high a level"}},
		{ID: 59, Name: "another user connects, a huge message, a slow store, many callers", Tests: []string{"identity/broker TestPeers", "identity/broker TestLimits", "identity/broker TestSlowStore", "identity/broker TestMutualTLS", "identity/broker/brokerd TestService"}},
	}},
	{"Profiles", []Case{
		{ID: 18, Name: "the store, or the revocations, cannot be read: at enqueue, at the start, in the middle",
			Tests: []string{"internal/enqueue TestBindRevoked", "identity/broker TestRefusals/a store that is away", "worker TestBrokerAway", "worker/bootstrap TestIdentityBrokerAway", "identity/broker TestStoreGoesAway"}},
		{ID: 19, Name: "a secret is rotated between enqueue and start, or while it is used", Tests: []string{"internal/binding TestBindingStart/rotated", "examples/identity TestOutput", "internal/redact TestAddedLater"},
			Except: "what runs keeps the version that it was given, and so do commands that its attempt starts later: an attempt has one envelope. The next attempt gets the new one"},
		{ID: 20, Name: "a key is added to, or taken from, a profile after the enqueue", Tests: []string{"internal/binding TestBindingStart", "internal/binding TestBindingRestricts", "internal/binding TestPolicyDoesNotGrow", "identity/broker TestSetDoesNotGrow"}},
		{ID: 21, Name: "unset, deny, lock, and two profiles with one name", Tests: []string{"identity TestResolve", "identity TestResolveModel"}},
		{ID: 23, Name: "a reference to another tenant: ../, encoded, look-alike, wildcard", Tests: []string{"identity TestProfileCheck", "identity/vault TestPlaces", "identity/filestore TestStore", "identity/filestore TestPutRefuses", "identity/sops TestFind"}},
		{ID: 24, Name: "a profile, or a worker for what has secrets, sets LD_PRELOAD, GIT_SSH_COMMAND, NODE_OPTIONS, https_proxy", Tests: []string{"identity TestReservedNames", "sandbox/local TestEscape/environment", "sandbox/local TestBackend/secrets/steered"}},
		{ID: 25, Name: "a program of the same name, or one that is swapped between check and start", Tests: []string{"sandbox/local TestBackend/secrets/command"}, Except: "a command is told by where the file is that would be executed, and not by a digest: who can write there can have its secrets"},
		{ID: 43, Name: "a policy that fails, or cannot be read", Tests: []string{"identity/cedar TestErrorDenies", "identity/cedar TestParseRefuses", "internal/binding TestPolicies", "identity/broker TestPolicy"}},
	}},
	{"Revocation", []Case{
		{ID: 29, Name: "a thousand enqueues race a hard revoke", Tests: []string{"internal/enqueue TestBindRacesRevoke"}},
		{ID: 30, Name: "a hard revoke in the middle of a run", Tests: []string{"worker/bootstrap TestIdentityRevoked", "worker/bootstrap TestIdentityWorkerRevoked", "worker TestEntrustedGuestSurvivesWorker", "identity/broker TestRevoked", "sandbox/local TestBackend/secrets/revoked", "sandbox/local TestBackend/secrets/lapse",
			"sandbox/local TestBackend/secrets/strict", "sandbox/local TestBackend/secrets/unrenewed"}, Except: "the bound with a stopped worker, a cut network and an absent Postgres, end to end, is measured and not tested: docs/revocation.md. What the sandbox does without a renewal is tested by itself"},
		{ID: 31, Name: "what is to be ended forks twice, leaves its session, ignores SIGTERM", Tests: []string{"sandbox/local TestBackend/kill"}},
		{ID: 32, Name: "a soft revoke", Tests: []string{"examples/identity TestOutput", "internal/enqueue TestBindRevoked", "identity/broker TestRevoked"}},
		{ID: 33, Name: "a renewal is replayed, repeats its number, or is another's", Tests: []string{"internal/envelope TestRenewal", "sandbox/local TestBackend/secrets/lapse"}},
		{ID: 34, Name: "a revocation at the source fails", Tests: []string{"identity/vault TestRevokeFails", "identity/broker TestLeaseOnRecord", "identity/broker TestLeaseOfALostBroker", "identity/broker TestLeasesOfOneThatHangs", "identity/broker TestSweep"}},
		{ID: 35, Name: "a worker dies, and something that was given out lives on", Tests: []string{"identity/broker TestSweep", "identity/broker TestSweepPassesOver", "identity/vault TestNoTokenIsLeft"}},
	}},
	{"Vault", []Case{
		{ID: 13, Name: "a wrapping token is unwrapped by somebody else", Tests: []string{"identity/vault TestWrapIntercepted", "worker/bootstrap TestWrappedIsIntercepted"}},
		{ID: 14, Name: "a wrapping token of another path", Tests: []string{"identity/vault TestWrapOfAnotherPath"}},
		{ID: 15, Name: "the answer of an unwrap is lost", Tests: []string{"identity/vault TestUnwrapAnswerIsLost"}},
		{ID: 16, Name: "a wrapping token is over; clocks are 10 minutes apart", Tests: []string{"identity/vault TestWrapIsOver", "identity/broker TestClocksApart"}},
		{ID: 17, Name: "the broker's own token ends", Tests: []string{"identity/vault TestLeaseOfAnAttempt", "identity/vault TestTokenEnds"}},
	}},
	{"Replay", []Case{
		{ID: 36, Name: "what was issued is to be issued again: the version is deleted, destroyed, another's", Tests: []string{"identity/vault TestVersionsThatEnd", "identity/broker TestRefusals/a version that is gone", "identity/broker TestRevokedVersion", "identity/awssecrets TestVersions", "identity/broker TestReproduce"}},
		{ID: 37, Name: "a step that is done is resumed after its key was revoked", Tests: []string{"internal/canary TestCanary", "identity/broker TestReproduce"}},
	}},
	{"Requests while a step works", []Case{
		{ID: 38, Name: "a worker is killed at each point of a request", Except: noJIT},
		{ID: 39, Name: "two reviewers decide at once", Except: noJIT},
		{ID: 40, Name: "what was approved changes", Except: noJIT},
		{ID: 41, Name: "somebody approves for himself, or is talked into it", Except: noJIT},
		{ID: 42, Name: "10,000 requests", Except: noJIT},
	}},
	{"Redaction", []Case{
		{ID: 44, Name: "a value is split anywhere, over writes and streams, cut off, killed", Tests: []string{"internal/redact TestEverySplit", "internal/redact TestInterleaved", "internal/redact TestLongAndCutOff", "internal/redact TestHeldBack",
			"internal/runner TestCutTextRedacts"}},
		{ID: 45, Name: "encodings, and what tools print", Tests: []string{"internal/redact TestEncodings", "internal/redact TestAlignments", "internal/redact TestAsPrinted", "internal/redact TestQuoted", "internal/redact TestPasses"}},
		{ID: 46, Name: "short values, values of many lines, values within values", Tests: []string{"internal/redact TestWeak", "internal/redact TestParts", "internal/redact TestOverlaps", "internal/redact TestPeriodic"}},
		{ID: 47, Name: "values with NUL, newlines, bad UTF-8, or of 64 KiB", Tests: []string{"internal/redact TestOddValues", "internal/redact TestBinaryAsText", "identity/broker TestRefusals/a NUL in a variable", "identity/broker TestRefusals/too long a value", "identity/vault TestTooLarge"}},
		{ID: 48, Name: "a server sends the secret back, and it becomes a result", Tests: []string{"internal/redact TestAsPrinted", "internal/runner TestAnswerRedacts", "internal/runner TestPumpRedacts", "worker TestLedgerSuspects"}},
		{ID: 49, Name: "speed, and texts that make it slow", Tests: []string{"internal/redact TestHostile"}, Except: "the rate is measured, by BenchmarkWriter of internal/redact, and not tested: a test of it would be one of the machine"},
	}},
	{"Secrets that do not enter the sandbox", []Case{
		{ID: 50, Name: "another host, a redirect, plain HTTP, an address, another name inside", Tests: []string{"identity/broker TestInject", "identity/broker TestInjectElsewhere", "identity/broker TestInjectWrongHost",
			"internal/egress TestRoute", "internal/egress TestPolicy", "worker/bootstrap TestInject"}},
		{ID: 51, Name: "a placeholder is somewhere else", Tests: []string{"identity/broker TestInject", "identity/broker TestInjectWrongHost", "worker/bootstrap TestInject", "worker/bootstrap TestInjectGit", "worker/bootstrap TestInjectGh"}},
		{ID: 52, Name: "a sandbox reaches the proxy or the broker", Tests: []string{"sandbox/local TestEscape/unix sockets", "sandbox/local TestEscape/descriptors", "identity/broker TestInjectElsewhere"}},
	}},
	{"Places that last", []Case{
		{ID: 28, Name: "a sandbox is used by another tenant", Tests: []string{"sandbox/local TestLeak/successor", "sandbox/docker TestBackend/claim", "sandbox/local TestBackend/secrets/envelope"}},
		{ID: 53, Name: "files of the store are changed, swapped, set back, cut; two writers; a full disk; modes", Tests: []string{"identity/filestore TestDamage", "identity/filestore TestSwapWithinTenant", "identity/filestore TestRollback",
			"identity/filestore TestTwoWriters", "identity/filestore TestWrongPassphrase", "identity/filestore TestMode", "identity/filestore TestFullDisk", "identity/filestore TestKilledWriter"}},
		{ID: 54, Name: "the store's key is changed while it is used", Tests: []string{"identity/filestore TestRekeyWhileInUse", "identity/filestore TestRekeyCutOff"}},
		{ID: 55, Name: "audit events are edited, deleted, reordered", Except: "events are not chained yet; their role can only add them"},
	}},
}
