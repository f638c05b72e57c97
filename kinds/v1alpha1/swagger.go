package v1alpha1

// Made from the comments of source.go: go test ./kinds/v1alpha1 -run TestSwagger -update.

// SwaggerDoc has the comments of Credentials, and of its fields by their names in JSON.
func (Credentials) SwaggerDoc() map[string]string {
	return map[string]string{
		"":               "Credentials are paths of files; each is read anew at every use, so that a rotation needs no restart.",
		"tokenFile":      "TokenFile holds a token, which is sent as a password.",
		"usernameFile":   "UsernameFile holds the user whose password or token it is. Empty: oauth2.",
		"passwordFile":   "PasswordFile holds the user's password.",
		"sshKeyFile":     "SSHKeyFile holds a private key, for ssh://.",
		"knownHostsFile": "KnownHostsFile holds the keys of servers that are trusted, for ssh://.",
		"caFile":         "CAFile holds PEM certificates to trust beside the system's.",
	}
}

// SwaggerDoc has the comments of Forge, and of its fields by their names in JSON.
func (Forge) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "Forge is where commit statuses are posted.",
		"type":       "Type of the forge's API: \"gitea\" (also Forgejo).",
		"url":        "URL of the forge. Empty: scheme and host of the source's URL.",
		"repository": "Repository as owner/name. Empty: the path of the source's URL.",
		"tokenFile":  "TokenFile holds the API token.",
		"caFile":     "CAFile holds PEM certificates to trust beside the system's.",
		"webhookSecretFile": "WebhookSecretFile holds the secret that signs POST /hooks/git. Empty: webhooks are refused for this " +
			"source.",
	}
}

// SwaggerDoc has the comments of Source, and of its fields by their names in JSON.
func (Source) SwaggerDoc() map[string]string {
	return map[string]string{
		"": "Source is a place manifests come from: a branch or tag and a path of a Git repository, or a folder " +
			"on disk. It is cluster-scoped; its name is part of the context of the commit statuses about it.",
		"metadata": "Standard object's metadata.",
		"spec":     "Spec says where to read and how.",
		"status":   "Status is what the daemon last found.",
	}
}

// SwaggerDoc has the comments of SourceList, and of its fields by their names in JSON.
func (SourceList) SwaggerDoc() map[string]string {
	return map[string]string{
		"":         "SourceList is a list of sources.",
		"metadata": "Standard list metadata.",
		"items":    "Items are the sources.",
	}
}

// SwaggerDoc has the comments of SourceSpec, and of its fields by their names in JSON.
func (SourceSpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "SourceSpec says where to read and how. Exactly one of URL and Folder is set.",
		"url":    "URL of a Git repository: http://, https://, ssh:// (or user@host:path) or file://.",
		"folder": "Folder is an absolute path on the daemon's disk, watched for changes.",
		"branch": "Branch to follow. Default, where Tag is empty too: the repository's HEAD.",
		"tag":    "Tag to follow; excludes Branch.",
		"path":   "Path inside the tree, slash-separated, below which manifests are read. Empty: the whole tree.",
		"interval": "Interval between looks at the references (Git) or rescans (folder). Zero: 15 s for Git, 60 s for a " +
			"folder.",
		"timeout":     "Timeout is how long a Git server may say nothing; a fetch that goes on may take an hour. Zero: 60 s.",
		"credentials": "Credentials name files on the daemon's disk; their contents never enter the store.",
		"ignoreKinds": "IgnoreKinds are kinds to skip wherever they stand in this source: \"Kind\", \"Kind.group\", \"*.group\" " +
			"for all of a group, or \"*\" for all that are not served.",
		"prune": "Prune \"allow\" lifts the prune budget of this source for good. Empty: the budget holds.",
		"drift": "Drift \"report\" has what is changed or deleted by hand of this source's objects only be told, until " +
			"a push; an object's annotation lockstep.dev/drift says otherwise of it. Empty or \"repair\": it is " +
			"put right.",
		"forge": "Forge receives commit statuses. Nil: none are posted (the verdict is still on the status page and " +
			"in the API).",
	}
}

// SwaggerDoc has the comments of SourceStatus, and of its fields by their names in JSON.
func (SourceStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":         "SourceStatus is what the daemon last found; only the daemon writes it.",
		"seen":     "Seen is the newest revision of the source, accepted or not.",
		"accepted": "Accepted is the newest revision that was accepted; its objects are the desired ones.",
		"applied":  "Applied is the newest revision whose plan was carried out to the end.",
		"state":    "State is the verdict on Seen: pending, success, failure or error; empty before the first look.",
		"message":  "Message is the verdict's text, at most 140 characters.",
		"errors": "Errors are all errors of Seen, each with file:line:column, at most 100, or why it is held, with all " +
			"that the hold names.",
		"objects": "Objects counts the objects of Accepted.",
		"healthy": "Healthy counts those of them that are healthy.",
		"drift": "Drift is what the accepted revision has lost since it was healthy; empty: nothing. State is not " +
			"changed by it.",
		"leftOut": "LeftOut is how many objects of the accepted revision IgnoreKinds has skipped, and of which kinds; " +
			"empty: none.",
		"warnings": "Warnings are what is told of the accepted revision's objects though it is accepted, each with " +
			"file:line:column: MaxWarnings, and how many more.",
		"fetchError": "FetchError is why the source could not be read last time; empty when it could.",
		"forgeError": "ForgeError is why commit statuses wait, with how many; empty when the forge took the last one.",
		"since":      "Since is when State last changed.",
	}
}
