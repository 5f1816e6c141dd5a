"""Figures and widgets: frames in, figure out. Nothing is computed here that another room should."""
