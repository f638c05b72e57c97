package scheduler

import (
	"fmt"
	"math"

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

// NewExpression compiles an expression. The error is for whoever wrote it.
func NewExpression(text string) (*Expression, error) {
	if len(text) > longestExpression {
		return nil, fmt.Errorf("it is longer than %d bytes", longestExpression)
	}
	of := cel.MapType(cel.StringType, cel.DynType)
	env, err := cel.NewEnv(cel.Variable("node", of), cel.Variable("pod", of))
	if err != nil {
		return nil, fmt.Errorf("cannot prepare for expressions: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, issues.Err()
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
			if d.failed != nil {
				return 0
			}
			number, cost, err := e.of(d, n)
			if d.spent += cost; err == nil && d.spent > podCost {
				err = fmt.Errorf("it costs more than %d for all nodes", podCost)
			}
			if err != nil {
				d.failed = fmt.Errorf("running Score plugins: plugin %q failed with: node %s: %w", expressionName, n.name, err)
			}
			return number
		},
	}
}

// of is the number for a node, and what it cost to compute.
func (e *Expression) of(d *demand, n *nodeInfo) (int64, uint64, error) {
	value, details, err := e.program.Eval(map[string]any{
		"node": map[string]any{
			"name": n.name, "labels": n.node.Labels, "allocatable": n.allocatable.byName(), "requested": n.requested.byName(),
			"pods": n.pods,
		},
		"pod": d.asVariable(),
	})
	var cost uint64
	if c := details.ActualCost(); c != nil {
		cost = *c
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

// asVariable is what an expression may know of a pod: what all pods that are ranked together have alike.
func (d *demand) asVariable() map[string]any {
	if d.variable == nil {
		d.variable = map[string]any{
			"namespace": d.load.group.namespace, "labels": map[string]string(d.load.group.labels), "priority": d.priority,
			"requests": d.load.requests.byName(),
		}
	}
	return d.variable
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
