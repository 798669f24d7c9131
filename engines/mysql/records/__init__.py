"""Tables of records in MySQL and MariaDB."""
