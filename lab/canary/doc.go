// Package canary looks for values of Secrets in everything that a cluster tells.
package canary
