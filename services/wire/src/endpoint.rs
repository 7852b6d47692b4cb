//! Addresses as they stand in configurations and requests.

/// The host of `http://host:port`, or why the text is not of that form.
///
/// # Errors
/// What is wrong, and how to write it.
pub fn endpoint(url: &str) -> Result<String, String> {
    let form = |what: &str| format!("{url:?} {what}; write it as http://host:port");
    let uri: http::Uri = url.parse().map_err(|_| form("is not an address"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(format!("{url:?} asks for TLS, which this release does not speak yet; use http://"));
        }
        _ => return Err(form("has no http://")),
    }
    if uri.port_u16().is_none_or(|port| port == 0) {
        return Err(form("has no port"));
    }
    if uri.path_and_query().is_some_and(|p| p.as_str() != "/") {
        return Err(form("has something after the port"));
    }
    let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| form("has no host"))?;
    Ok(host.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port_and_nothing_else() {
        for (good, host) in [
            ("http://127.0.0.1:1", "127.0.0.1"),
            ("http://[::1]:7501", "::1"),
            ("http://eu-1.example:7501", "eu-1.example"),
        ] {
            assert_eq!(endpoint(good).as_deref(), Ok(host));
        }
        for (bad, why) in [
            ("", "is not an address"),
            ("a b", "is not an address"),
            ("127.0.0.1:7501", "has no http://"),
            ("ftp://h:1", "has no http://"),
            ("https://h:1", "asks for TLS"),
            ("http://h", "has no port"),
            ("http://h:0", "has no port"),
            ("http://h:1/x", "after the port"),
        ] {
            let refused = endpoint(bad).unwrap_err();
            assert!(refused.contains(why), "{bad:?}: {refused}");
        }
    }
}
