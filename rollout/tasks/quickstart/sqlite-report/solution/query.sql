SELECT customers.name AS name,
       COUNT(DISTINCT orders.id) AS orders,
       COALESCE(SUM(items.quantity * items.price), 0) AS spent,
       MAX(orders.placed) AS last
FROM customers
JOIN orders ON orders.customer = customers.id AND orders.state <> 'cancelled'
LEFT JOIN items ON items."order" = orders.id
GROUP BY customers.id
ORDER BY spent DESC, customers.name;
