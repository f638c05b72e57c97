package health

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// startError is the reason of an end that was no exit: the runtime could not start the container.
const startError = "StartError"

// waiting returns the first waiting reason that is a failure, not a step on the way, with what is known of its cause. That
// a container is tried again now and then tells nothing, and changes all the time: the cause is the same before, during
// and after an attempt.
func waiting(containers []corev1.Container, statuses []corev1.ContainerStatus) string {
	for _, s := range statuses {
		if s.State.Waiting == nil {
			continue
		}
		reason, message := s.State.Waiting.Reason, s.State.Waiting.Message
		t := s.LastTerminationState.Terminated
		if t != nil && t.Reason == startError && (reason == "CrashLoopBackOff" || reason == "RunContainerError") {
			return "RunContainerError: " + plain(t.Message)
		}
		switch reason {
		case "ImagePullBackOff", "ErrImagePull":
			return because("ImagePullBackOff", imageOf(containers, s), pullError(message, s.Image))
		case "InvalidImageName", "ErrImageNeverPull":
			return because(reason, imageOf(containers, s))
		case "CreateContainerConfigError": // names of objects and keys
			return because(reason, message)
		case "CrashLoopBackOff", "CreateContainerError", "RunContainerError", "PostStartHookError":
			return reason
		}
	}
	return ""
}

// maxCause bounds what is told of one cause, in characters: a commit status has 140 in all.
const maxCause = 200

func because(reason string, parts ...string) string {
	text := reason
	for _, p := range parts {
		if p = strings.Join(strings.Fields(p), " "); p != "" {
			text += ": " + p
		}
	}
	if runes := []rune(text); len(runes) > maxCause {
		return string(runes[:maxCause-1]) + "…"
	}
	return text
}

// imageOf is the image as its container states it; a status may have the name that the runtime made of it.
func imageOf(containers []corev1.Container, s corev1.ContainerStatus) string {
	for _, c := range containers {
		if c.Name == s.Name {
			return c.Image
		}
	}
	return s.Image
}

// pullError is the cause in what containerd says of a pull, without who passed it on, the image's own name, and what
// differs from one attempt to the next: the port that a connection came from. Queries of URLs are cut: they may hold a
// token.
func pullError(message, image string) string {
	if _, after, ok := strings.Cut(message, "ErrImagePull: "); ok {
		message = after
	} else if strings.HasPrefix(message, "Back-off ") {
		return ""
	}
	for {
		head, rest, ok := strings.Cut(message, ": ")
		passes := strings.HasPrefix(head, "failed to ") || strings.HasPrefix(head, "Failed to ") || strings.HasPrefix(head, "rpc error") ||
			strings.HasPrefix(head, "cannot pull ") || strings.HasPrefix(head, `Head "`) || strings.HasPrefix(head, `Get "`) ||
			!strings.Contains(head, " ") && (strings.HasSuffix(head, image) || strings.Contains(head, "/"))
		if !ok || !passes {
			break
		}
		message = rest
	}
	words := strings.Fields(message)
	for i, w := range words {
		if before, after, ok := strings.Cut(w, "->"); ok && strings.Contains(before, ":") {
			w = after
		}
		words[i] = bare(w)
	}
	return strings.Join(words, " ")
}

// mountError is the cause in what a node says of a volume that it cannot mount, with the volume's name.
func mountError(message string) string {
	if _, after, ok := strings.Cut(message, "error processing "); ok {
		return after // the claim, by its name
	}
	_, named, ok := strings.Cut(message, " failed for volume ")
	if !ok {
		return message
	}
	volume, cause, _ := strings.Cut(named, " : ")
	// A program that failed is told with its arguments, and last with what it has printed.
	if head, rest, ok := strings.Cut(cause, "\nMounting command: "); ok {
		cause = head
		if _, printed, ok := strings.Cut(rest, "\nOutput: "); ok && strings.TrimSpace(printed) != "" {
			cause += ": " + strings.TrimSpace(printed)
		}
	}
	return "volume " + volume + ": " + cause
}

// rejection is the cause in what a node says of a pod that it has not taken, or has ended: the first sentence, without how much of
// what was in use by whom, which is another with each pod.
func rejection(message string) string {
	cause, _, _ := strings.Cut(strings.TrimPrefix(message, "Pod was rejected: "), ". ")
	return strings.TrimSuffix(cause, ".")
}

// bare is a word without the user and the query of the URL that it may be.
func bare(word string) string {
	scheme, rest, ok := strings.Cut(word, "://")
	if !ok {
		return word
	}
	end := strings.TrimRight(rest, `:,"`)
	mark := rest[len(end):]
	host, path, _ := strings.Cut(end, "/")
	path, _, _ = strings.Cut(path, "?")
	return strings.TrimSuffix(scheme+"://"+host[strings.LastIndex(host, "@")+1:]+"/"+path, "/") + mark
}

func terminated(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.Reason == startError {
			return startError + ": " + plain(t.Message)
		} else if t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("%s (exit code %d)", cmp.Or(t.Reason, "Error"), t.ExitCode)
		}
	}
	return ""
}

// plain is what a runtime's message says in the end, without the names of all that passed it on.
func plain(message string) string {
	for _, before := range []string{"unable to start container process: ", "OCI runtime create failed: "} {
		if _, after, ok := strings.Cut(message, before); ok {
			message = after
			break
		}
	}
	return strings.TrimSuffix(message, ": unknown")
}
