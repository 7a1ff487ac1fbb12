CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customers (id),
    placed TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'sent', 'cancelled'))
);
CREATE TABLE items (
    "order" INTEGER NOT NULL REFERENCES orders (id),
    product TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    price INTEGER NOT NULL
);
INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bob'), (3, 'Cleo');
INSERT INTO orders VALUES
    (1, 1, '2026-01-05', 'sent'), (2, 1, '2026-02-01', 'cancelled'), (3, 2, '2026-01-20', 'open');
INSERT INTO items VALUES (1, 'pen', 3, 2), (1, 'ink', 1, 9), (2, 'desk', 1, 300), (3, 'pen', 2, 2);
