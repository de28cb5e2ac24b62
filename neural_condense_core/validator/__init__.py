"""The validator: asks miners, has their replies judged, rates them, sets weights, serves users."""
