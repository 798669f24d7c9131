"""RabbitMQ: the way in by messages, the way out to its exchanges, and the messages nobody could take."""
