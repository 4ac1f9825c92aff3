"""The local cloud: the AWS that leasehold is tested against, on one machine and without an account.

moto answers the APIs; this package adds what moto lacks and refuses what moto would silently skip. `README.md` beside
this file says what is here, how to steer it (`/_localcloud/...`) and where it differs from AWS.
"""

import os

ACCOUNT = "123456789012"

# AdministratorAccess and the others exist, as in an account: CDK's deployment role needs it. Read when moto is imported.
os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
