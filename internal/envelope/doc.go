// Package envelope is the form in which secrets travel to a sandbox: sealed to a key
// that the sandbox made for one attempt, signed by the broker, and of no use to the
// worker that carries them.
//
// This package has what both ends agree about and no way to seal or to open: package
// seal is the broker's end, package open the sandbox's. No worker is linked with either.
//
//	sandbox  open.NewKey(facts, broker's key)  ->  hello
//	broker   seal.New(hello, head)             ->  key of renewals
//	         Seal(items)                       ->  envelope
//	sandbox  Key.Open(envelope)                ->  items, or an error and nothing
//
// # What holds
//
// An envelope can be opened by the key that its hello came from, once, for the [Facts]
// that the key was made for. Whatever is altered, left out, repeated or put elsewhere,
// the whole of it is refused. Who signed it is who the sandbox was told about before it
// made the key. A hello cannot be stripped of what the sandbox knows, to get an older
// form: the signature is also about the hello.
//
// # What does not
//
// The names of secrets, and who may have them, are readable on the way, as is how long
// a value is, up to 255 bytes. A worker that is not merely curious can send the broker
// a hello of its own: the envelope is then the worker's. See the assurance levels in
// SECURITY.md.
//
// # The form
//
// Numbers are big-endian, and whatever has a length has it in front, in 4 bytes. There
// is one form for one content. A version stands for all algorithms: 1 is HPKE in base
// mode with ML-KEM-768 and X25519, HKDF-SHA256 and AES-256-GCM, Ed25519, HMAC-SHA256.
package envelope
