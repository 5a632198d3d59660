package lockdown

import "context"

// openAll is Open with the wait.
func (d Doors) openAll(ctx context.Context, s DoorState) error {
	wait, err := d.Open(ctx, s)
	if err != nil {
		return err
	}
	return wait(ctx)
}
