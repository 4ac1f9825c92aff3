//! The mapping without DynamoDB: what is asked for, and what is refused when it comes back.
