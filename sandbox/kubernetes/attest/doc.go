// Package attest tells a broker of secrets which sandboxes on Kubernetes no worker can look into: level L2. It is for
// the broker's process, and never for a worker's.
//
//	a, err := attest.New(attest.Config{
//		Namespace: "stepward", Worker: "stepward/stepward-worker",
//		RunnerImage: "registry.example.com/stepward-worker@sha256:…", ProofKey: key, // of broker.ProofKey
//	})
//	cfg.Attestors = map[string]broker.Attestor{"kubernetes": a}
//
// Workers have the same key in kubernetes.Config.ProofKey.
//
// # How a sandbox proves itself
//
// Its pod has a token of its service account that is for the broker alone, no good for the API server and ends with
// the pod. Only the first container has it, which brings the tool runner and hands the token on; the tool runner takes
// and removes it before it serves anybody. With the key of each attempt it sends the token, sealed to the broker by
// the key that stands in the pod, with all that the attempt is and the hash of its own key. The worker carries that,
// and can neither read it nor put another key beside it.
//
// # What is looked at
//
// Of each attempt: that the API server knows the token, for the broker and of this sandbox's pod; that the pod is, to
// the last field that matters, the one that package kubernetes makes, of the images and with the broker's key of
// [Config]. Every few seconds: that the namespace keeps privileged pods out, by Pod Security, and that neither the
// worker's account, nor any of those in the namespace, which its pods could have, is allowed to get into a pod, to
// change one, or to make tokens of it; nor to become one who is.
//
// # What does not hold
//
// Who is root on a node, or an administrator of the cluster, reads what runs there. The rights that accounts have in
// single other namespaces are not looked at: the broker, and any account with more, belong in a namespace where the
// worker may do nothing. A tool's image sets the environment of what it starts, and says what its commands are, so that
// [Config].Images should name digests.
package attest
