"""A customer API to take records from: 21 invented people in a JSON file, or as many as one likes.

    python -m examples.customer_api [--port 5000] [--count N] [--latency MILLISECONDS]

    GET /api/customers?page=1&limit=10   {"data": […], "total": 21, "page": 1, "limit": 10}
    GET /api/customers/CUST0000001       one customer; 404 as JSON when there is none
    GET /api/health                      {"status": "ok", "customers": 21}

Nothing is kept: customers beyond the file are made anew from their number whenever they are asked for.
"""
