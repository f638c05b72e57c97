package scheduler

// ownerSpread prefers nodes with fewer pods of the same controller; its weight is that of topology spreading.
func ownerSpread() score {
	return score{name: "OwnerSpread", weight: 2, scope: itself, of: (*demand).spread}
}

// spread falls with each pod of the same controller on the node: 100, 50, 33, 25, … A pod without one is not spread.
func (d *demand) spread(n *nodeInfo, _ *cluster) int64 {
	if d.load.owner == "" {
		return best
	}
	return best / int64(1+n.owners[d.load.owner])
}
