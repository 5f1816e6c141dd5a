# Who may do what. Deny is the default; every answer names its rule, its reason and what to do.
#
# input:  principal {name, roles, source} · action · resource {name, dataset, schema, columns, symbols, start, end} · facts
# data:   grants.json (what each role may do) · roles.json (who has which role; resolved before we are asked)
package researchkit.access

import rego.v1

default decision := {
	"allow": false,
	"rule": "default",
	"reason": "no grant covers it",
	"remedy": "Ask a data owner for a grant.",
}

# Refusals come first: no grant opens what no campaign was registered for, deletes what must be kept, nor gives what legal
# has to sign for.
decision := {
	"allow": false,
	"rule": "sealed",
	"reason": "it is sealed until a campaign is registered",
	"remedy": "Register first: ws.gate.register(…). What is registered after the opening can only end screened.",
} if {
	sealed
} else := {
	"allow": false,
	"rule": "unregistered",
	"reason": "a seal opens only for a registered campaign",
	"remedy": "Register first: ws.gate.register(…).",
} if {
	unregistered
} else := {
	"allow": false,
	"rule": "hold",
	"reason": "somebody may be holding it for a legal reason",
	"remedy": "Release the hold first, with the reason, if that is lawful.",
} if {
	held
} else := {
	"allow": false,
	"rule": "retention",
	"reason": "its date has not come",
	"remedy": "Wait for the date: nobody can shorten it.",
} if {
	retained
} else := {
	"allow": false,
	"rule": "unsigned",
	"reason": "the full dataset is bought only with a legal sign-off",
	"remedy": "Sign-off is not in this version: only the censored sample is ordered.",
} if {
	unsigned
} else := {
	"allow": false,
	"rule": "signoff",
	"reason": sprintf("%s needs a legal sign-off (scope %s)", [scope.what, scope.name]),
	"remedy": scope.remedy,
} if {
	scope
} else := {
	"allow": true,
	"rule": rule,
	"reason": "a grant covers it",
	"remedy": "",
} if {
	count(covering) > 0
	rule := min(covering)
}

sealed if {
	input.action in {"read", "pin"}
	input.facts.sealed == true
	not input.facts.opened == true
}

unregistered if {
	input.action == "open_seal"
	not input.facts.registered == true
}

# Whoever deletes must say that nothing forbids it; silence forbids it.
held if {
	input.action == "delete"
	not input.facts.held == false
}

retained if {
	input.action == "delete"
	not input.facts.retained == false
}

# Without a sign-off only the sample is ordered.
unsigned if {
	input.action == "order"
	not input.facts.sample == true
	not input.facts.signed == true
}

# Every grant that covers the request, written role/number; the smallest is named, so always the same one.
covering contains rule if {
	some role in input.principal.roles
	some i, grant in data.grants.roles[role]
	grant.action == input.action
	covers(grant.resource, input.resource.name)
	fits(grant)
	rule := sprintf("%s/%d", [role, i + 1])
}

# "*" is everything; "DEMO/*" everything of one dataset; otherwise the name itself.
covers(pattern, _) if pattern == "*"

covers(pattern, name) if pattern == name

covers(pattern, name) if {
	endswith(pattern, "/*")
	startswith(name, trim_suffix(pattern, "*"))
}

# A grant for samples covers samples only.
fits(grant) if not grant.sample

fits(grant) if {
	grant.sample == true
	input.facts.sample == true
}

# Tables that legal must sign for. Samples are censored and need no signature.
scope := found if {
	input.action in {"read", "ingest", "pin"}
	not input.facts.sample == true
	found := data.grants.scopes[input.resource.name]
}
