"""CloudFormation, as far as the product's CDK app needs it: our own, in place of moto's.

moto's drops resources and properties it does not know, reports success after failures, and cannot update most types. Here an
unknown type, property or function fails the change set before anything is created, and a failure rolls back.
"""
