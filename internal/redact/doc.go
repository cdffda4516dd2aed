// Package redact takes secret values out of what leaves a sandbox.
//
// A [Set] holds the values. It rewrites text ([Set.Writer], [Set.Redact],
// [Set.JSON]): a value becomes [REDACTED:NAME]. It finds them in what must not
// be rewritten ([Set.Scanner], [Set.Find]): files, archives, binary results.
//
// Redaction guards against accidents: a debug line, a stack trace, an error
// that quotes a request. It is no wall against a program that wants to leak what
// it was given. Text that was compressed, encrypted, reversed, or printed with
// something between its characters passes, and so does half a value.
//
// # How it works
//
// A value has parts that are secret on their own: its lines, the leaves of a
// JSON document, the password of a URL (part.go). A part may stand in a text in
// many encodings (codec.go), and each is a pattern. Where an encoding depends on
// neighbours, as base64 does, the pattern is the core that does not, for each
// alignment. So a value is found in what was encoded around it: "Basic " and the
// base64 of user:value needs no pattern of its own.
//
// A text is read through three views (view.go, plain.go, hex.go): without line
// breaks; also without escape sequences and characters of no width; its
// hexadecimal digits alone. Each keeps a window over the last symbols it read, and looks it
// up among the heads, the first 8 bytes of each pattern (index.go). Patterns of one head
// are read on as one until a symbol tells them apart (family.go), as fifty private keys are that
// begin like every certificate. What is left becomes a candidate, which is compared
// symbol by symbol, and falls back as Knuth, Morris and Pratt do. So the work is linear
// in the text for keys that a few dozen symbols tell apart. A program can make it
// more by printing the begin of large values again and again: that slows what it prints itself.
//
// A writer holds back what may be the begin of a match, and no more.
package redact
