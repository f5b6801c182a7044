//! What `SHOW`, `current_setting` and `pg_settings` tell.

/// The version of PostgreSQL whose catalog clients find here: some decide by it what they may ask.
pub const SERVER_VERSION: &str = "16.6";

/// Name and value.
pub(super) const SETTINGS: [(&str, &str); 20] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "160006"),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
];

/// The value of a setting; names know no case.
pub(super) fn setting(name: &str) -> Option<&'static str> {
    let name = match name.to_ascii_lowercase().as_str() {
        "time zone" => "timezone".to_owned(),
        "transaction_isolation" | "transaction isolation level" => "default_transaction_isolation".to_owned(),
        "transaction_read_only" => "default_transaction_read_only".to_owned(),
        name => name.to_owned(),
    };
    SETTINGS.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}
