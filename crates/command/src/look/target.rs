//! Which table and which stream an application has: by the arguments, or else by the rows.

use kinesis_asl::KinesisStream;
use lease_store::Consistency;
use lease_store::dynamodb::{DynamoDbLeaseStore, MultiStreamKey};

use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, CommandErrorKind, usage};
use crate::look::rows::{self, TableRows};

/// The table and the stream of an application.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) application: String,
    pub(crate) store: DynamoDbLeaseStore,
    /// `None`: neither an argument nor a row names the stream.
    pub(crate) stream: Option<KinesisStream>,
    /// The rows by which they were found, for the first look.
    pub(crate) first_rows: Option<TableRows>,
}

impl Target {
    /// Finds both. Makes one scan.
    pub(crate) async fn find(arguments: &ApplicationArguments) -> Result<Self, CommandError> {
        let ApplicationArguments { application, table, stream, connection } = arguments;
        let mut store = connection.table(application, table.as_deref(), stream.as_deref()).await?;
        let rows = rows::scan(&store, Consistency::Eventual).await?;
        check_is_lease_table(&rows, store.table_name())?;
        let choice = choose(&rows, stream.as_deref()).map_err(usage)?;
        let mut first_rows = Some(rows);
        let name = match choice {
            Choice::Rows(stream) => stream,
            Choice::Identifier(identifier) => {
                let key = key_of(&identifier)?;
                let name = stream.clone().filter(|stream| stream.starts_with("arn:"));
                let name = name.or_else(|| identifier.split(':').nth(1).map(str::to_owned));
                store = store.with_multi_stream_key(key);
                // They were read in the layout of one stream.
                first_rows = None;
                name
            }
        };
        let stream = match name {
            Some(name) => Some(connection.stream(&name).await?),
            None => None,
        };
        Ok(Self { application: application.clone(), store, stream, first_rows })
    }
}

/// Which rows are read, and which stream they are of.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// The rows of a table of one stream; `None`: nothing names it.
    Rows(Option<String>),
    /// The rows with this identifier in a table of many streams.
    Identifier(String),
}

/// Chooses the stream. A name without an account or creation time must have one match in a table of many streams.
fn choose(rows: &TableRows, asked: Option<&str>) -> Result<Choice, String> {
    let named = rows.leases.iter().find_map(|lease| lease.stream.as_ref()).map(|stream| stream.arn.clone());
    if rows.streams.is_empty() || !rows.leases.is_empty() {
        return Ok(Choice::Rows(asked.map(str::to_owned).or(named)));
    }
    let matches: Vec<&String> = rows.streams.iter().filter(|stream| is_named(stream, asked)).collect();
    match matches.as_slice() {
        [one] => Ok(Choice::Identifier((*one).clone())),
        [] => Err(format!(
            "the table has no leases of the stream {:?}; set --stream to one of {}",
            asked.unwrap_or_default(),
            rows.streams.join(", ")
        )),
        several => {
            let several: Vec<&str> = several.iter().map(|stream| stream.as_str()).collect();
            Err(format!(
                "the table has leases of several streams; set --stream to one of {}",
                several.join(", ")
            ))
        }
    }
}

/// Whether an identifier `account:name:epoch` is that of the asked stream.
fn is_named(identifier: &str, asked: Option<&str>) -> bool {
    let Some(asked) = asked else { return true };
    let mut parts = identifier.split(':');
    let (account, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    identifier == asked || name == asked || asked.ends_with(&format!(":{account}:stream/{name}"))
}

fn key_of(identifier: &str) -> Result<MultiStreamKey, CommandError> {
    let parts: Vec<&str> = identifier.split(':').collect();
    let key = match parts.as_slice() {
        [account, name, epoch] => {
            epoch.parse().ok().and_then(|epoch| MultiStreamKey::new(account, name, epoch).ok())
        }
        _ => None,
    };
    key.ok_or_else(|| {
        let message = format!(
            "the rows name the stream {identifier:?}, which is not ACCOUNT:NAME:EPOCH; repair or delete the rows"
        );
        CommandError::new(CommandErrorKind::Invalid, message)
    })
}

/// Refuses a table that has rows, and none of a fleet.
fn check_is_lease_table(rows: &TableRows, table: &str) -> Result<(), CommandError> {
    let is_of_fleet = !rows.leases.is_empty() || !rows.streams.is_empty() || !rows.workers.is_empty();
    let is_coordination = rows.foreign.iter().any(|row| row.kind != fleet_view::ForeignKind::Unknown);
    if rows.count() == 0 || is_of_fleet || is_coordination {
        return Ok(());
    }
    let fault = rows.malformed.first().map_or_else(String::new, |row| {
        format!(" (row {:?}, attribute {:?}: {})", row.key, row.attribute, row.reason)
    });
    let message = format!("table {table:?} is no lease table{fault}; name the application or set --table");
    Err(CommandError::new(CommandErrorKind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(streams: &[&str]) -> TableRows {
        TableRows {
            streams: streams.iter().map(|stream| (*stream).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_stream_of_a_shared_table_is_named_or_alone() {
        let one = rows(&["1:words:7"]);
        let two = rows(&["1:words:7", "1:lines:8"]);
        let again = rows(&["1:words:7", "1:words:9"]);
        let identifier = |text: &str| Ok(Choice::Identifier(text.to_owned()));
        assert_eq!(choose(&one, None), identifier("1:words:7"));
        assert_eq!(choose(&two, Some("lines")), identifier("1:lines:8"));
        let arn = "arn:aws:kinesis:eu-west-1:1:stream/lines";
        assert_eq!(choose(&two, Some(arn)), identifier("1:lines:8"));
        assert_eq!(choose(&again, Some("1:words:9")), identifier("1:words:9"));
        for (rows, asked) in [(&two, None), (&again, Some("words")), (&one, Some("other"))] {
            let fault = choose(rows, asked).unwrap_err();
            assert!(fault.contains("1:words:7"), "{fault}");
        }
    }

    #[test]
    fn rows_of_another_program_are_no_lease_table() {
        let mut other = TableRows::default();
        assert!(check_is_lease_table(&other, "t").is_ok(), "an empty table may become one");
        other
            .foreign
            .push(fleet_view::ForeignRow { key: String::new(), kind: fleet_view::ForeignKind::Unknown });
        assert_eq!(check_is_lease_table(&other, "t").unwrap_err().kind(), CommandErrorKind::Invalid);
        assert!(check_is_lease_table(&rows(&["1:words:7"]), "t").is_ok());
    }
}
