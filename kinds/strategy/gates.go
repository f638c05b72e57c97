package strategy

import (
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/features"
)

// Gates that Kubernetes keeps closed and Lockstep opens, since it acts on what is behind them. With a closed one Kubernetes'
// strategies drop the field without a word.
func init() {
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{
		string(features.ContainerStopSignals): true, // lifecycle.stopSignal
	}); err != nil {
		panic(err) // a name that this version of Kubernetes lacks
	}
}
