// Package reading tests a real cluster as those see it who read its API: people with kubectl, informers, and nodes.
package reading
