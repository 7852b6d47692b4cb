//! Who calls.

use crate::{TenantId, TenantName};

/// The caller of a request, as the gateway's one authentication layer found it. Until certificates and keys arrive
/// every caller acts for the tenant that its request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant that the caller acts for.
    pub tenant: TenantId,
    /// Its name.
    pub tenant_name: TenantName,
}
