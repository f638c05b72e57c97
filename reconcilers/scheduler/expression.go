package scheduler

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	corev1 "k8s.io/api/core/v1"
)

// expressionName is how the score of an expression is named where it is weighed and told of.
const expressionName = "Expression"

const (
	// longestExpression is in bytes: what is longer is a program, and no score.
	longestExpression = 4 << 10
	// nodeCost bounds what an expression may cost for one node, in CEL's units: a hundred or so comparisons of labels, some 20 µs.
	nodeCost = 1000
	// podCost bounds it for all nodes that are looked at for one pod: 40 units for each of 5,000 nodes, some 10 ms.
	podCost = 200_000
)

// Expression is a score in CEL, compiled. Its variables are node (name, labels, allocatable and requested by resource, CPU in millicores
// and memory in bytes, pods, which is how many there are) and pod (namespace, labels, priority, requests). It yields a number from 0
// to 100; one beyond counts as the nearer of these.
type Expression struct {
	text    string
	program cel.Program
}

// variables are what an expression may say, with their types: a name that is none of these does not compile.
func variables() map[string]*cel.Type {
	labels, amounts := cel.MapType(cel.StringType, cel.StringType), cel.MapType(cel.StringType, cel.IntType)
	return map[string]*cel.Type{
		"node.name": cel.StringType, "node.labels": labels, "node.allocatable": amounts, "node.requested": amounts,
		"node.pods":     cel.IntType,
		"pod.namespace": cel.StringType, "pod.labels": labels, "pod.priority": cel.IntType, "pod.requests": amounts,
	}
}

// NewExpression compiles an expression. The error is for whoever wrote it.
func NewExpression(text string) (*Expression, error) {
	if len(text) > longestExpression {
		return nil, fmt.Errorf("it is longer than %d bytes", longestExpression)
	}
	known := variables()
	var options []cel.EnvOption
	for name, t := range known {
		options = append(options, cel.Variable(name, t))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare for expressions: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("%w\nthere are %s", issues.Err(), strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	if t := ast.OutputType(); !t.IsExactType(cel.IntType) && !t.IsExactType(cel.DoubleType) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("it yields %s, want a number", t)
	}
	program, err := env.Program(ast, cel.CostLimit(nodeCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	return &Expression{text: text, program: program}, nil
}

func (e *Expression) score() score {
	return score{
		name: expressionName, weight: 1, scope: itself,
		reads: func(of, into *corev1.Pod) { into.Spec.Priority = of.Spec.Priority },
		of: func(d *demand, n *nodeInfo, _ *cluster) int64 {
			if d.failed != nil && (d.failing < n.name || d.spent > podCost) {
				return 0
			}
			number, cost, err := e.of(d, n)
			if d.spent += cost; d.failed == nil && d.spent > podCost {
				d.failed = failedExpression(fmt.Errorf("it costs more than %d of CEL's units for all nodes", podCost))
			} else if err != nil { // of several nodes the first by name is told, in whichever order they are asked
				d.failed, d.failing = failedExpression(fmt.Errorf("node %s: %w", n.name, err)), n.name
			}
			return number
		},
	}
}

func failedExpression(err error) error {
	return fmt.Errorf("running Score plugins: plugin %q failed with: %w", expressionName, err)
}

// of is the number for a node, and what it cost to compute.
func (e *Expression) of(d *demand, n *nodeInfo) (int64, uint64, error) {
	said := maps.Clone(d.said())
	said["node.name"], said["node.labels"], said["node.pods"] = n.name, n.node.Labels, n.pods
	said["node.allocatable"], said["node.requested"] = n.allocatable.byName(), n.requested.byName()
	value, details, err := e.program.Eval(said)
	var cost uint64
	if c := details.ActualCost(); c != nil {
		cost = *c
	}
	if cost > nodeCost {
		return 0, cost, fmt.Errorf("it costs more than %d of CEL's units for a node", nodeCost)
	}
	if err != nil {
		return 0, cost, err
	}
	switch number := value.Value().(type) {
	case int64:
		return min(best, max(0, number)), cost, nil
	case float64:
		if math.IsNaN(number) {
			return 0, cost, fmt.Errorf("it yields no number")
		}
		return int64(min(best, max(0, number))), cost, nil
	}
	return 0, cost, fmt.Errorf("it yields %s, want a number", value.Type().TypeName())
}

// said is what an expression may know of a pod: what all pods that are ranked together have alike.
func (d *demand) said() map[string]any {
	if d.variables == nil {
		d.variables = map[string]any{
			"pod.namespace": d.load.group.namespace, "pod.labels": map[string]string(d.load.group.labels), "pod.priority": d.priority,
			"pod.requests": d.load.requests.byName(),
		}
	}
	return d.variables
}

// byName are the amounts by the names of the resources.
func (a *amounts) byName() map[string]int64 {
	out := map[string]int64{
		string(corev1.ResourceCPU): a.cpu, string(corev1.ResourceMemory): a.memory, string(corev1.ResourceEphemeralStorage): a.storage,
	}
	for name, value := range a.scalar {
		out[string(name)] = value
	}
	return out
}
