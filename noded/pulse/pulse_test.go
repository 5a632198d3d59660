package pulse

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestALoopThatDoesNotComeRoundIsLateUntilItDoesOrEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Monitor
		doors, endDoors := m.Begin(t.Context(), "doors", time.Minute)
		filter, endFilter := m.Begin(t.Context(), "filter", time.Hour)
		defer endFilter()
		time.Sleep(50 * time.Second)
		Beat(doors)
		time.Sleep(50 * time.Second)
		if late := m.Late(); len(late) > 0 {
			t.Errorf("late: %v", late)
		}
		time.Sleep(20 * time.Second)
		Beat(filter) // another's beat does not help
		if late := m.Late(); len(late) != 1 || !strings.HasPrefix(late[0], "doors has not come round for 1m10s") {
			t.Errorf("late: %v", late)
		}
		Beat(doors)
		if late := m.Late(); len(late) > 0 {
			t.Errorf("late after a beat: %v", late)
		}
		time.Sleep(2 * time.Minute)
		endDoors()
		if late := m.Late(); len(late) > 0 {
			t.Errorf("late after its end: %v", late)
		}
	})
}

func TestABeatOutsideOfALoopIsNoMatter(t *testing.T) { Beat(context.Background()) }
