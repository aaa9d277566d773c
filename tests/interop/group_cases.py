"""How a case of parameter groups is compared with a plan."""

import json

from stand_ins import golden_model


def plan_of(case, spec, listed, methods=None):
    """The plan of a spec for the model of a case."""
    setting = case["setting"]
    prefixes = setting.get("frozen_prefixes", ())
    model = golden_model(setting["model"], listed, frozen_prefixes=prefixes, methods=methods)
    return spec.plan(model, total_steps=10)


def differences(case, plan, rel=0.0, lr="lr"):
    """What a plan has otherwise than the peer: name, option, ours and theirs; and what only one of them leaves out."""
    found = []
    moving = [entry for entry in case["values"] if not entry.get("frozen")]
    for entry in moving:
        ours = plan.parameters.get(entry["name"])
        if ours is None:
            found.append((entry["name"], "is left out"))
            continue
        expected = {"lr": entry.get(lr, entry["lr"]), "weight_decay": entry["weight_decay"]}
        if "momentum" in entry and "momentum" in ours:
            expected["momentum"] = entry["momentum"]
        found += [
            (entry["name"], option, ours[option], value)
            for option, value in expected.items()
            if abs(ours[option] - value) > rel * abs(value)
        ]
    found += [(name, "is trained") for name in plan.parameters.keys() - {entry["name"] for entry in moving}]
    theirs = {entry["name"] for entry in case["left_out"]}
    theirs |= {entry["name"] for entry in case["values"] if entry.get("frozen")}
    found += [(name, "is left out by one of them") for name in theirs ^ plan.left_out.keys()]
    return found


def is_plain(spec):
    """Whether a spec reads back as it was from plain data."""
    return json.loads(json.dumps(spec.to_dict())) == spec.to_dict() and type(spec).from_dict(spec.to_dict()) == spec
