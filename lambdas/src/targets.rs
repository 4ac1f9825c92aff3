//! The kinds of address that follow the lease. A target's steps are `ensure_*`: they change only what differs and may
//! be repeated; none of them decides anything.

pub mod virtual_ip;
