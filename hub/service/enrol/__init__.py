"""Run the enrolment endpoint and keep the roll of enrolled devices."""
