"""The policies of a role, from moto's IAM."""

from __future__ import annotations

import json
from typing import Any

from moto.iam.models import iam_backends

from . import ACCOUNT


class NoSuchRole(Exception):
    pass


def role_by_arn(role_arn: str) -> Any:
    for role in list(iam_backends[ACCOUNT]["aws"].roles.values()):
        if role.arn == role_arn:
            return role
    raise NoSuchRole(role_arn)


def role_documents(role_arn: str) -> list[str]:
    """Inline and attached policies as JSON texts."""
    role = role_by_arn(role_arn)
    documents = [p if isinstance(p, str) else json.dumps(p) for p in list(role.policies.values())]
    for policy in list(role.managed_policies.values()):
        versions = policy.versions
        documents.append(next((v.document for v in versions if v.version_id == policy.default_version_id), versions[0].document))
    if role.permissions_boundary_arn:
        raise NotImplementedError(f"role {role.name} has a permissions boundary; the local cloud does not judge those")
    return documents


def profile_role(profile_arn_or_name: str) -> Any | None:
    """The role of an instance profile, or None if it has none."""
    for profile in list(iam_backends[ACCOUNT]["aws"].instance_profiles.values()):
        if profile_arn_or_name in (profile.arn, profile.name, profile.id):
            return profile.roles[0] if profile.roles else None
    return None
