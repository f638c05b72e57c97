package kinds

// Authority is the annotation by which a node says which authority of the cluster its certificate is of.
const Authority = "lockstep.dev/authority"
