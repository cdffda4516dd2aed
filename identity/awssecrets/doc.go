// Package awssecrets reads secrets from AWS Secrets Manager. It is a module of its
// own, since AWS's client is large.
//
// A reference is aws://NAME#KEY: the secret is that of the name Config.Prefix and NAME, and
// KEY one of the fields of its value, which is a JSON object then. Without a
// key the reference is the value as it is.
//
// The version of a value is AWS's own (VersionId), and the current one is that of the
// label AWSCURRENT. AWS keeps versions without a label until there are a hundred, and
// for a day at least: what is pinned for longer needs a label.
//
// The broker's role needs secretsmanager:GetSecretValue for the names under the
// prefix, secretsmanager:DescribeSecret to tell a version that is gone from a secret that is, and
// kms:Decrypt where a key of the customer's is used.
package awssecrets
