package kinds

// AnnotationScores tells on a pod which nodes were the best for it when it was bound, and how they scored.
const AnnotationScores = "lockstep.dev/node-scores"
