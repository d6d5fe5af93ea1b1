-- Views over the tables of one data set, for DuckDB. The tables are next to this file:
--   cd <data root>/<data set>/tables && duckdb -init views.sql
--   Python: duckdb.connect(config={"file_search_path": "<tables folder>"}).execute(views_sql)

CREATE OR REPLACE VIEW ratings AS SELECT * FROM read_parquet('ratings.parquet');
CREATE OR REPLACE VIEW items AS SELECT * FROM read_parquet('items.parquet');
CREATE OR REPLACE VIEW item_genres AS SELECT * FROM read_parquet('item_genres.parquet');
CREATE OR REPLACE VIEW item_people AS SELECT * FROM read_parquet('item_people.parquet');
CREATE OR REPLACE VIEW item_texts AS SELECT * FROM read_parquet('item_texts.parquet');
CREATE OR REPLACE VIEW tags AS SELECT * FROM read_parquet('tags.parquet');
CREATE OR REPLACE VIEW links AS SELECT * FROM read_parquet('links.parquet');
CREATE OR REPLACE VIEW users AS SELECT * FROM read_parquet('users.parquet');

-- The numbers of recsys.domain.EventType.
CREATE OR REPLACE VIEW event_types AS
SELECT * FROM (VALUES (1, 'rating'), (2, 'view'), (3, 'click'), (4, 'like'), (5, 'dislike'), (6, 'save'), (7, 'impression'))
    AS event_types (type, type_name);

-- Every interaction with its keys, title and moment in words.
CREATE OR REPLACE VIEW interactions AS
SELECT user_key, item_key, title, type_name, value, to_timestamp("timestamp") AS moment, user_id, item_id
FROM ratings JOIN users USING (user_id) JOIN items USING (item_id) JOIN event_types USING (type);

-- One row per item, also for items without events.
CREATE OR REPLACE VIEW item_activity AS
SELECT items.item_id, any_value(title) AS title, count(ratings.item_id) AS interactions,
       count(DISTINCT ratings.user_id) AS users, avg(value) FILTER (WHERE type = 1) AS mean_rating,
       min("timestamp") AS first_timestamp, max("timestamp") AS last_timestamp
FROM items LEFT JOIN ratings ON ratings.item_id = items.item_id GROUP BY items.item_id;

-- One row per user.
CREATE OR REPLACE VIEW user_activity AS
SELECT users.user_id, any_value(user_key) AS user_key, count(ratings.user_id) AS interactions,
       min("timestamp") AS first_timestamp, max("timestamp") AS last_timestamp
FROM users LEFT JOIN ratings ON ratings.user_id = users.user_id GROUP BY users.user_id;

-- One row per person and role, with the titles in order of their years.
CREATE OR REPLACE VIEW filmographies AS
SELECT person_id, any_value(name) AS name, role, count(*) AS items, list(title ORDER BY year, title) AS titles
FROM item_people JOIN items USING (item_id) GROUP BY person_id, role;
