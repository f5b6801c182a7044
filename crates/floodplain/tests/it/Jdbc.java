import java.sql.*;
import java.time.OffsetDateTime;
import java.util.*;

/**
 * Metadata, parameters, cursors and errors by PostgreSQL's JDBC driver.
 *
 * Arguments: the URL, and the SQLSTATE with which the login is refused, if it is.
 */
public class Jdbc {
    static void check(Object found, Object expected) {
        if (!Objects.equals(found, expected)) throw new AssertionError("found " + found + ", expected " + expected);
    }

    static List<String> strings(ResultSet rows, String... columns) throws SQLException {
        List<String> all = new ArrayList<>();
        while (rows.next()) {
            List<String> row = new ArrayList<>();
            for (String column : columns) row.add(rows.getString(column));
            all.add(String.join(" ", row));
        }
        return all;
    }

    public static void main(String[] args) throws SQLException {
        if (args.length > 1) {
            try (Connection db = DriverManager.getConnection(args[0])) {
                throw new AssertionError("the login was not refused");
            } catch (SQLException error) {
                check(error.getSQLState(), args[1]);
            }
            return;
        }
        try (Connection db = DriverManager.getConnection(args[0])) {
            DatabaseMetaData meta = db.getMetaData();
            check(meta.getDatabaseMajorVersion(), 16);
            check(meta.getUserName(), "anna");
            check(strings(meta.getSchemas(), "TABLE_SCHEM"), List.of("information_schema", "pg_catalog", "public"));
            check(strings(meta.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME", "TABLE_TYPE")
                    .containsAll(List.of("engine TABLE", "alerts TABLE", "devices TABLE", "dlq TABLE", "events TABLE",
                        "records TABLE", "sessions TABLE", "streams TABLE", "tables TABLE")), true);
            check(strings(meta.getTables(null, "public", "%", new String[] {"VIEW"}), "TABLE_NAME"), List.of());
            check(strings(meta.getTables(null, "public", "e%gine", null), "TABLE_NAME"), List.of("engine"));
            check(strings(meta.getColumns(null, "public", "engine", "%"), "COLUMN_NAME", "TYPE_NAME", "IS_NULLABLE").stream()
                    .filter(column -> !column.startsWith("_")).toList(),
                List.of("device text NO", "time timestamptz NO", "rpm float8 YES", "lamp bool YES", "gear text YES"));
            check(strings(meta.getPrimaryKeys(null, "public", "engine"), "COLUMN_NAME"), List.of());
            check(strings(meta.getIndexInfo(null, "public", "engine", false, false), "INDEX_NAME"), List.of());
            check(strings(meta.getImportedKeys(null, "public", "engine"), "FKCOLUMN_NAME"), List.of());
            check(strings(meta.getTypeInfo(), "TYPE_NAME").contains("float8"), true);

            // From the fifth time on it is a prepared statement, and its results are binary.
            String query = "SELECT time, rpm, lamp, gear FROM engine WHERE device = ? AND rpm > ? ORDER BY time";
            try (PreparedStatement statement = db.prepareStatement(query)) {
                check(statement.getMetaData().getColumnTypeName(2), "float8");
                for (int turn = 0; turn < 8; turn++) {
                    statement.setString(1, "truck-1");
                    statement.setDouble(2, 3.0);
                    try (ResultSet rows = statement.executeQuery()) {
                        check(rows.next(), true);
                        check(rows.getObject(1, OffsetDateTime.class), OffsetDateTime.parse("2026-01-01T00:00:03Z"));
                        check(rows.getDouble(2), 3.5);
                        check(rows.getBoolean(3), false);
                        check(rows.getString(4), "3");
                        check(rows.next(), true);
                        check(rows.next(), false);
                    }
                }
            }
            try (PreparedStatement statement = db.prepareStatement("SELECT ?, ?")) {
                statement.setLong(1, 1L << 40);
                statement.setString(2, "text");
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    check(rows.getObject(1), 1L << 40);
                    check(rows.getObject(2), "text");
                }
            }

            // A cursor: some rows at a time.
            db.setAutoCommit(false);
            try (Statement statement = db.createStatement()) {
                statement.setFetchSize(100);
                long sum = 0;
                try (ResultSet rows = statement.executeQuery("SELECT value FROM generate_series(1, 1000)")) {
                    while (rows.next()) sum += rows.getLong(1);
                }
                check(sum, 500500L);
            }
            db.commit();
            db.setAutoCommit(true);

            try (Statement statement = db.createStatement()) {
                statement.executeUpdate("DELETE FROM engine");
                throw new AssertionError("rows were deleted");
            } catch (SQLException error) {
                check(error.getSQLState(), "25006");
            }
            check(db.isValid(10), true);
        }
        System.out.println("all good");
    }
}
