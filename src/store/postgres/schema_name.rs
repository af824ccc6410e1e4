//! The schema that all objects of the service are in. Statements name their tables with an `@`
//! before them, which becomes the schema's name. A `search_path` set on a connection would not do:
//! a pooler may hand the next transaction to another connection, or the connection to another
//! client, and then orders would be written into what others made.

use tokio_postgres::{Client, SimpleQueryMessage};

/// The name of a schema, or none: then names are looked for where the role or the server says.
///
/// Its text is safe in SQL: small letters, digits and underscores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaName(Option<Box<str>>);

/// With what is put after it, a name of PostgreSQL's has 63 bytes at most.
const NAME_BYTES_MAX: usize = 40;
/// What the schemas of a database that is used by one service alone are called.
const USUAL: &str = "public";

impl SchemaName {
    /// A schema of this name, which need not be there yet.
    ///
    /// # Errors
    /// Which names there can be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = text.bytes().all(is_part) && !text.starts_with(|first: char| first.is_ascii_digit());
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !is_name {
            let rule = "must be 1 to 40 small letters, digits and underscores, and begin with no digit";
            return Err(format!("{text:?} {rule}"));
        }
        if text.starts_with("pg_") || text == "information_schema" {
            return Err(format!("{text:?} is PostgreSQL's own"));
        }
        Ok(Self(Some(text.into())))
    }

    /// The name, if one is set.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// A statement with the name in the place of each `@`.
    pub(super) fn sql(&self, statement: &str) -> String {
        let prefix = self.0.as_ref().map(|name| format!("\"{name}\".")).unwrap_or_default();
        statement.replace('@', &prefix)
    }

    /// An expression for the name of the schema in which new objects are made.
    pub(super) fn target(&self) -> String {
        self.0.as_ref().map_or_else(|| "current_schema()".into(), |name| format!("'{name}'"))
    }

    /// The schema of the views for an older service's layout.
    pub(super) fn of_views(&self, layout: &str) -> String {
        format!("{}_{layout}", self.0.as_deref().unwrap_or("orders"))
    }

    /// What tells the locks of this schema from those of others in the same database, as far as it
    /// is known: 0 in the usual schema, where former versions took them too.
    ///
    /// # Errors
    /// What the server says.
    pub(super) async fn salt(&self, client: &Client) -> Result<i32, tokio_postgres::Error> {
        if let Some(name) = self.name() {
            return Ok(salt_of(name));
        }
        // Another instance may name the schema that this one finds by the search path.
        let sql = "SELECT coalesce((SELECT relnamespace::regnamespace::text FROM pg_class
                                    WHERE oid = to_regclass('orders')), current_schema())";
        let messages = client.simple_query(sql).await?;
        let name = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(salt_of(name.unwrap_or(USUAL)))
    }
}

/// FNV-1a, which is the same in every version.
pub(super) fn salt_of(name: &str) -> i32 {
    if name == USUAL {
        return 0;
    }
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_statements() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        for name in ["orders_2", "_", "public", &longest] {
            let schema = SchemaName::parse(name).unwrap();
            assert_eq!(schema.sql("SELECT '@orders'::regclass FROM @orders"), {
                format!("SELECT '\"{name}\".orders'::regclass FROM \"{name}\".orders")
            });
        }
        let too_long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "Orders", "a b", "a\"", "a'", "2a", "pg_orders", "information_schema", "ä", "a.b", &too_long]
        {
            assert!(SchemaName::parse(name).is_err(), "{name}");
        }
        assert_eq!(SchemaName::default().sql("SELECT FROM @orders"), "SELECT FROM orders");
    }

    #[test]
    fn locks_of_two_schemas_differ_and_the_usual_one_keeps_those_it_had() {
        assert_eq!(salt_of("public"), 0);
        let salts: std::collections::BTreeSet<_> = (0..1000).map(|n| salt_of(&format!("orders_{n}"))).collect();
        assert!(salts.len() == 1000 && !salts.contains(&0));
    }
}
