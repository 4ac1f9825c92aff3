"""The local cloud: the AWS that leasehold is tested against, on one machine and without an account.

moto answers the APIs; this package adds what moto lacks and refuses what moto would silently skip. `README.md` beside
this file says what is here, how to steer it (`/_localcloud/...`) and where it differs from AWS.
"""

ACCOUNT = "123456789012"
