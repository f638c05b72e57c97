// Package strategy applies Kubernetes' own rules to objects: defaulting, validation, what an update may change.
package strategy
